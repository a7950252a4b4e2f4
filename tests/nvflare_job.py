"""The example's job with recorders before and after what TIP does: python -m tests.nvflare_job FOLDER numpy FULL."""

import pathlib
import sys

from examples.nvflare import job

sys.path.append(str(pathlib.Path(__file__).parent))
from nvflare_recorder import Recorder


def main() -> None:
    workspace, exchange, transfer = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    records = str(workspace / "records")
    recipe = job.make_recipe(
        workspace,
        exchange=exchange,
        transfer=transfer,
        batch_norm=True,
        before=Recorder(records, "goes"),
    )
    recipe.add_client_input_filter(Recorder(records, "came"), tasks=job.TASKS)
    recipe.add_server_input_filter(Recorder(records, "arrived"), tasks=job.TASKS)
    job.run(recipe, workspace, clients=2)


if __name__ == "__main__":
    main()
