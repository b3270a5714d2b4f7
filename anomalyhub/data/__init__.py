"""Images, masks and data sets on disk."""

from anomalyhub.data.dataset import Dataset, SampleRef, Split, list_products, load_dataset
from anomalyhub.data.hf import is_hub
from anomalyhub.data.images import IMAGE_SUFFIXES, MAX_PIXELS, check_image, read_image, read_mask
from anomalyhub.data.support import support_sets
from anomalyhub.data.uploads import Limits, gather_uploads

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Dataset",
    "Limits",
    "SampleRef",
    "Split",
    "check_image",
    "gather_uploads",
    "is_hub",
    "list_products",
    "load_dataset",
    "read_image",
    "read_mask",
    "support_sets",
]
