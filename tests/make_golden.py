"""Writes the golden file of this version of the noise contract: ``python -m tests.make_golden [--force]``.

A file that exists already is not replaced by other contents, unless by ``--force``: what has been released stays.
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # the tests import one another without their folder's name

import golden


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--force", action="store_true", help="replace a file that differs")
    force = parser.parse_args().force
    made, path = golden.contents(), golden.path()
    for by_name in golden.calls().values():
        for call in by_name.values():
            _check_the_reference(call)
    if path.exists():
        before = json.loads(path.read_text())
        changed = [section for section in made if made[section] != before.get(section)]
        if not changed:
            print(f"{path.name} is up to date")
            return 0
        if not force:
            print(f"{path.name} differs in {', '.join(changed)}: bump CONTRACT_VERSION, or --force", file=sys.stderr)
            return 1
        print(f"changed: {', '.join(changed)}")
    path.write_text(_as_text(made))
    print(f"wrote {path.name}")
    return 0


def _check_the_reference(call) -> None:
    """A golden file must hold what the package does, and not only what the model says."""
    grads = call.grads()
    call.run("reference", grads)
    for grad, want in zip(grads, call.expected(), strict=True):
        if want is not None:
            want.check(grad.double().numpy())


def _as_text(made: dict) -> str:
    """JSON with a line for each run of words and each tensor, so that a change can be read in a diff."""
    lines = [f' "contract_version": {made["contract_version"]},', ' "words": [']
    lines += [",\n".join(f"  {json.dumps(run)}" for run in made["words"]), " ],"]
    sections = []
    for section in golden.calls():
        named = [
            f"  {json.dumps(name)}: [\n" + ",\n".join(f"   {json.dumps(tensor)}" for tensor in tensors) + "\n  ]"
            for name, tensors in made[section].items()
        ]
        sections.append(f" {json.dumps(section)}: {{\n" + ",\n".join(named) + "\n }")
    return "{\n" + "\n".join(lines) + "\n" + ",\n".join(sections) + "\n}\n"


if __name__ == "__main__":
    sys.exit(main())
