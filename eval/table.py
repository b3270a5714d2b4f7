"""Tables of what eval/run.py has measured: `python eval/table.py RUN… --task classification --format latex --out FILE`.

Mean and sample deviation over seeds, per product and over products, beside the published figures; see
anomalyhub/benchmark/table.py.
"""

import sys

from anomalyhub.benchmark.table import main

if __name__ == "__main__":
    sys.exit(main())
