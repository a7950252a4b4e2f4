"""A filter for NVFlare that writes down what passes it; the job of a test carries it along."""

import os
import pathlib
import pickle
import tempfile

from nvflare.apis.dxo import from_shareable
from nvflare.apis.filter import Filter


class Recorder(Filter):
    """Pickles kind, values and metadata of every DXO into a new file of ``folder`` with ``label`` in its name."""

    def __init__(self, folder: str, label: str) -> None:
        super().__init__()
        self.folder, self.label = folder, label

    def process(self, shareable, fl_ctx):
        dxo = from_shareable(shareable)
        peer = fl_ctx.get_peer_context()
        who = fl_ctx.get_identity_name() if self.label != "arrived" else peer.get_identity_name()
        handle, path = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(handle, "wb") as file:
            pickle.dump((str(dxo.data_kind), dict(dxo.data), dict(dxo.meta)), file)
        count = len(list(pathlib.Path(self.folder).glob(f"{self.label}.{who}.*")))
        pathlib.Path(path).rename(pathlib.Path(self.folder) / f"{self.label}.{who}.{count}")
        return shareable
