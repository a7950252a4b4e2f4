"""The example's job with recorders before and after what TIP does: python -m tests.nvflare_job FOLDER numpy FULL.

With another argument, "spoil", clients have NaN in their results.
"""

import pathlib
import sys

from examples.nvflare import job

sys.path.append(str(pathlib.Path(__file__).parent))
from nvflare_recorder import Recorder, Spoiler


def main() -> None:
    exchange, transfer, *spoil = sys.argv[2:]
    workspace = pathlib.Path(sys.argv[1])
    records = str(workspace / "records")
    recipe = job.make_recipe(
        workspace,
        exchange=exchange,
        transfer=transfer,
        batch_norm=True,
        before=Spoiler() if spoil else Recorder(records, "goes"),
    )
    recipe.add_client_input_filter(Recorder(records, "came"), tasks=job.TASKS)
    recipe.add_server_input_filter(Recorder(records, "arrived"), tasks=job.TASKS)
    job.run(recipe, workspace, clients=2)


if __name__ == "__main__":
    main()
