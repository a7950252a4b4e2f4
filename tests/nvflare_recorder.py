"""A filter for NVFlare that writes down what passes it; the job of a test carries it along."""

import os
import pathlib
import pickle
import tempfile

from nvflare.apis.dxo import from_shareable
from nvflare.apis.filter import Filter


class Recorder(Filter):
    """Pickles kind, values and metadata of what passes into a new file of ``folder`` with ``label`` in its name.

    Of what is no DXO, all of it is the values, and the return code the kind.
    """

    def __init__(self, folder: str, label: str) -> None:
        super().__init__()
        self.folder, self.label = folder, label

    def process(self, shareable, fl_ctx):
        peer = fl_ctx.get_peer_context()
        who = fl_ctx.get_identity_name() if self.label != "arrived" else peer.get_identity_name()
        handle, path = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(handle, "wb") as file:
            pickle.dump(_content(shareable), file)
        count = len(list(pathlib.Path(self.folder).glob(f"{self.label}.{who}.*")))
        pathlib.Path(path).rename(pathlib.Path(self.folder) / f"{self.label}.{who}.{count}")
        return shareable


class Spoiler(Filter):
    """Puts a NaN into a result."""

    def process(self, shareable, fl_ctx):
        dxo = from_shareable(shareable)
        value = dxo.data["layers.0.bias"].copy()
        value[0] = float("nan")
        dxo.data["layers.0.bias"] = value
        return shareable


def _content(shareable):
    if "DXO" in shareable:
        dxo = from_shareable(shareable)
        return str(dxo.data_kind), dict(dxo.data), dict(dxo.meta)
    entries = {key: value for key, value in shareable.items() if not key.startswith("__")}
    return shareable.get_return_code(), entries, {}
