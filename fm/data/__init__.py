"""From any source of pictures to exact batches: sources -> shards -> random access -> an endless, resumable stream."""

from fm.data.addresses import settled
from fm.data.batches import Batch, batches
from fm.data.describe import Summary, describe
from fm.data.images import ShardedImages
from fm.data.manifest import Manifest, load_manifest
from fm.data.order import Order, order_of
from fm.data.planning import inputs_digest
from fm.data.preparation import Preparation
from fm.data.shards import add_shards, write_shards
from fm.data.sources import Item, Listing, Source, open_source
from fm.data.verifying import verify

__all__ = [
    "Batch",
    "Item",
    "Listing",
    "Manifest",
    "Order",
    "Preparation",
    "ShardedImages",
    "Source",
    "Summary",
    "add_shards",
    "batches",
    "describe",
    "inputs_digest",
    "load_manifest",
    "open_source",
    "order_of",
    "settled",
    "verify",
    "write_shards",
]
