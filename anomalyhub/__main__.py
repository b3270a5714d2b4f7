"""`python -m anomalyhub`."""

from anomalyhub.cli import main

if __name__ == "__main__":
    main()
