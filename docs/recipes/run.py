"""Trains tiny networks in the real frameworks, with the code pasted in that bn-audit prints, and audits the result.

    python docs/recipes/run.py              every recipe
    python docs/recipes/run.py lightning    those of one folder
    python docs/recipes/run.py timm/loop    one

A recipe is a training script that writes `before.*` and `after.*`, and leaks: statistics of its frozen part drift. A
comment marks where advice goes, and tells how the code for that place begins:

    model.train()  # PASTE model.train()

The script runs as it is, and must be found drifted. Then it runs with the printed code in place of the marked line: now
every layer that drifted must be locked, and every other layer be what it was. Folders beside the scripts have other code
for a mark, named SCRIPT.WAY.py: in `holds/` what works as well, in `leaks/` what looks right and is not enough; in
`guards/`, named SCRIPT.FRAMEWORK.py, what puts the guard in that `bn-audit init --guard FRAMEWORK` writes. It must end the
leaking run and name layers that the audit calls drifted, warn with `--mode warn`, and be silent once it has frozen them.

Needs Node and a built bn-audit. A recipe whose packages are missing is skipped. Exit code 1 if one failed.
"""

import concurrent.futures
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

RECIPES = pathlib.Path(__file__).resolve().parent
BN_AUDIT = RECIPES.parent.parent / "bin" / "bn-audit.js"
NEEDS = re.compile(r"^# needs (.+)$", re.MULTILINE)
MARK = re.compile(r"^( *)(?:[^#\n]*  )?# PASTE (.+)$", re.MULTILINE)
# A script takes seconds; one that hangs must not hold up the others.
LIMIT_SECONDS = 240

# torchvision from PyPI is linked against PyTorch's CUDA build. Beside a CPU build its compiled operators do not load,
# and its Python cannot be imported, since it adds to two of them. It can where they are declared before.
DECLARE_OPERATORS = """
import sys

class DeclareOperators:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch
            self.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.declared = self  # kept alive

sys.meta_path.insert(0, DeclareOperators())
"""


class Failed(Exception):
    """What a recipe did in place of what it should."""


class Ended(Failed):
    """A script that did not end well."""

    def __init__(self, code, output):
        self.output = output
        super().__init__("\n    ".join([f"the script ended with exit code {code}:", *output.splitlines()[-12:]]))


class Skipped(Exception):
    """Why a recipe could not run here."""


def version_of(package):
    """A package's version as (text, numbers), e.g. ("2.6.1", (2, 6, 1)), or skipped where there is none."""
    try:
        text = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise Skipped(f"this Python has no {package}") from None
    return text, tuple(int(number) for number in re.findall(r"\d+", text.split("+")[0])[:3])


def check_needs(source):
    """The packages and versions that a script names (`# needs lightning >= 2.2, torch`), as text."""
    found = []
    for need in NEEDS.search(source).group(1).split(", "):
        package, *bound = need.split(" ")
        text, numbers = version_of(package)
        if bound:
            wanted = tuple(int(number) for number in bound[1].split("."))
            if (numbers >= wanted) != (bound[0] == ">="):
                raise Skipped(f"it is about {need}, this is {text}")
        found.append(f"{package} {text}")
    return ", ".join(found)


def train(source, folder, python_path, guard):
    """Runs a script in a folder of its own, with a guard or none, and returns the paths of what it wrote, before and after."""
    folder.mkdir()
    if guard:
        subprocess.run(["node", str(BN_AUDIT), "init", "--guard", *guard], cwd=folder, check=True, capture_output=True)
    (folder / "recipe.py").write_text(source)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(python_path), "OMP_NUM_THREADS": "1"}
    with open(folder / "output.txt", "w") as output:
        try:
            code = subprocess.run([sys.executable, "recipe.py"], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                                  stdout=output, stderr=output, timeout=LIMIT_SECONDS).returncode
        except subprocess.TimeoutExpired:
            code = f"none within {LIMIT_SECONDS} s"
    if code != 0:
        raise Ended(code, (folder / "output.txt").read_text(errors="replace").strip())
    return [str(next(folder.glob(f"{name}*"))) for name in ("before", "after")]


def audit(before, after, *options):
    """Runs bn-audit, and returns its output and exit code."""
    done = subprocess.run(["node", str(BN_AUDIT), "diff", before, after, *options], capture_output=True, text=True,
                          encoding="utf-8")
    if done.returncode not in (0, 1):
        raise Failed(f"bn-audit ended with exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout, done.returncode


def read_statuses(before, after):
    """The status of each norm layer by name, and the exit code."""
    report, code = audit(before, after, "--format", "json")
    return {layer["name"]: layer["status"] for layer in json.loads(report)["layers"]}, code


def read_advice(before, after):
    """The pieces of code that the text report prints under "How to keep it frozen", without their indentation."""
    report, _ = audit(before, after)
    advice = report.partition("How to keep it frozen\n")[2]
    # Prose is indented by two spaces, code by six; what stands between two lines of prose is one piece.
    pieces = re.split(r"^ {0,3}\S.*\n", advice, flags=re.MULTILINE)
    return [re.sub(r"^ {6}", "", piece.strip("\n"), flags=re.MULTILINE) for piece in pieces if piece.strip()]


def paste(source, mark, code):
    """The script with code in place of a marked line, as far to the right as that line."""
    lines = [mark.group(1) + line if line else "" for line in code.splitlines()]
    return source[: mark.start()] + "\n".join(lines) + source[mark.end() :]


def check_held(leaked, held, code):
    """Fails unless what drifted is locked, and all else is as it was: advice must not stop what is trained."""
    wanted = {name: "locked" if status == "drifted" else status for name, status in leaked.items()}
    wrong = [
        f"{name} is {held.get(name, 'missing')}, not {status}"
        for name, status in wanted.items()
        if held.get(name) != status
    ]
    if code != 0 or wrong:
        raise Failed(f"bn-audit ended with exit code {code}; {'; '.join(wrong)}")


def count_drifted(statuses):
    return sum(status == "drifted" for status in statuses.values())


def find_ways(script):
    """Other code for a script's marks: (path, whether it holds)."""
    def find(folder):
        return sorted((script.parent / folder).glob(f"{script.stem}.*.py"))

    return [(path, True) for path in find("holds")] + [(path, False) for path in find("leaks")]


def try_way(path, holds, source, leaked, run):
    """Pastes other code for the mark that its first line names."""
    way = path.read_text()
    check_needs(way)
    begin = way.splitlines()[0].removeprefix("# for ")
    mark = next(mark for mark in MARK.finditer(source) if mark.group(2) == begin)
    statuses, code = read_statuses(*run(paste(source, mark, way), path.stem))
    if holds:
        check_held(leaked, statuses, code)
        return "holds as well"
    drifted = count_drifted(statuses)
    if drifted == 0:
        raise Failed("nothing drifts with it, although it is said not to be enough")
    return f"is not enough, {drifted} still drift"


def try_guard(path, source, leaked, run):
    """Trains with a guard: one that raises, one that warns, and one that has frozen the layers."""
    way = path.read_text()
    check_needs(way)
    mark = next(mark for mark in MARK.finditer(source) if f"# for {mark.group(2)}" == way.splitlines()[0])

    def guard(mode, freeze):
        text = f"FREEZE = {freeze}\n" + paste(source, mark, way)
        files = run(text, f"{path.stem}-{mode}-{freeze}", (path.stem.split(".")[1], "--mode", mode))
        output = (pathlib.Path(files[0]).parent / "output.txt").read_text(errors="replace")
        return files, "\n".join(line for line in output.splitlines() if "frozen norm layers moved" in line)

    drifted = {name for name, status in leaked.items() if status == "drifted"}
    try:
        guard("raise", False)
        raise Failed("the guard let the leaking run pass")
    except Ended as ended:
        check_named(ended.output, drifted)
    files, warnings = guard("warn", False)
    check_named(warnings, drifted)
    if read_statuses(*files)[0] != leaked:
        raise Failed("with a guard that warns, the audit finds something else than without")
    files, _ = guard("raise", True)
    check_held(leaked, *read_statuses(*files))
    return f"raises and warns of {len(drifted)} norm layers, and is silent once it has frozen them"


def check_named(output, drifted):
    """Fails unless a guard counts the layers that the audit calls drifted, and names only those."""
    told = re.search(r"(\d+) frozen norm layers moved, in standard deviations: (.*)\. Cure", output)
    names = re.findall(r"(\S+) by [\d.e-]+", told.group(2).replace("/", ".")) if told else []
    if not names or int(told.group(1)) != len(drifted) or not drifted.issuperset(names):
        raise Failed(f"the guard should tell of {', '.join(sorted(drifted))}; it said:\n    {output[-2000:]}")


def try_recipe(script, scratch, python_path):
    """Runs a script in each way, and returns (name, "passed" | "failed" | "skipped", what happened) of each."""
    results = []
    name = script.relative_to(RECIPES).with_suffix("").as_posix()

    def note(label, check):
        try:
            results.append((label, "passed", check()))
        except (Failed, Skipped) as problem:
            results.append((label, "skipped" if isinstance(problem, Skipped) else "failed", str(problem)))

    def run(text, way, guard=()):
        return train(text, scratch / f"{name}-{way}".replace("/", "-"), python_path, guard)

    try:
        source = script.read_text()
        versions = check_needs(source)
        files = run(source, "leak")
        leaked, _ = read_statuses(*files)
        if count_drifted(leaked) == 0:
            raise Failed(f"nothing drifts without the advice, of {len(leaked)} norm layers")
        advice = read_advice(*files)
    except (Failed, Skipped) as problem:
        return [(name, "skipped" if isinstance(problem, Skipped) else "failed", str(problem))]

    def try_advice(mark):
        code = next((piece for piece in advice if piece.startswith(mark.group(2))), None)
        if code is None:
            printed = "\n".join(advice).replace("\n", "\n    ")
            raise Failed(f"no printed code begins so; printed was:\n    {printed}")
        statuses, exit_code = read_statuses(*run(paste(source, mark, code), f"advice-{mark.start()}"))
        check_held(leaked, statuses, exit_code)
        return f"{versions}: without the advice {count_drifted(leaked)} of {len(leaked)} norm layers drifted, with it 0"

    # A mark in brackets has a name of its own: no advice is printed for it.
    for mark in [mark for mark in MARK.finditer(source) if not mark.group(2).startswith("(")]:
        note(f"{name}, {mark.group(2)} …", lambda: try_advice(mark))
    for path, holds in find_ways(script):
        note(path.relative_to(RECIPES).with_suffix("").as_posix(), lambda: try_way(path, holds, source, leaked, run))
    for path in sorted((script.parent / "guards").glob(f"{script.stem}.*.py")):
        note(path.relative_to(RECIPES).with_suffix("").as_posix(), lambda: try_guard(path, source, leaked, run))
    return results


def choose_scripts(names):
    """The recipes that bear one of the names, or are in a folder of that name; all without names."""
    scripts = {f"{path.parent.name}/{path.stem}": path for path in sorted(RECIPES.glob("*/*.py"))}
    known = {*scripts, *(path.parent.name for path in scripts.values())}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no recipe {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    return [path for name, path in scripts.items() if not names or name in names or path.parent.name in names]


def find_python_path(scratch):
    """Folders that scripts import from: what recipes share, and a way round a torchvision without operators."""
    (scratch / "site").mkdir()
    probe = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    if "operator torchvision::nms does not exist" in probe.stderr:
        (scratch / "site" / "sitecustomize.py").write_text(DECLARE_OPERATORS)
    return [str(scratch / "site"), str(RECIPES), *filter(None, [os.environ.get("PYTHONPATH")])]


def main(names):
    scripts = choose_scripts(names)
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    with tempfile.TemporaryDirectory(prefix="bn-audit-recipes-", ignore_cleanup_errors=True) as folder:
        scratch = pathlib.Path(folder)
        python_path = find_python_path(scratch)
        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
            for results in pool.map(lambda script: try_recipe(script, scratch, python_path), scripts):
                for label, outcome, text in results:
                    counts[outcome] += 1
                    print(f"{outcome:7}  {label}: {text}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
