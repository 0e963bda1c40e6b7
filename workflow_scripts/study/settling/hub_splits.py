"""Which files of a hub's data set make a split: worked out by the `datasets` library, by its own rules.

It is shown a folder of empty files that are called as those of the repository are, with the repository's card, in
which an author may say which files make which configuration and split. So what is asked of the hub is asked by our own
client alone, and no loading script ever runs: the library has none for a folder.
"""

import tempfile
from pathlib import Path, PurePosixPath

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.download.unpack import refuse_unsafe_name
from workflow_scripts.study.messages import shown
from workflow_scripts.study.settling import lock

CARDS = ("README.md", ".huggingface.yaml")  # where an author says what makes what
MOST_FILES = 100_000


def files_of_split(entry: "lock.Entry") -> tuple[str, list[str]]:
    """Return a split's name and its files, in order, of a data set all of whose files `entry` has.

    No split named: `train`, or the only one there is. PlumblineError where there is no such configuration or split.
    """
    refuse_scripts(entry)
    with tempfile.TemporaryDirectory(prefix="plumbline-hub-") as temporary:
        folder = Path(temporary) / "files"
        for name in entry.files:
            refuse_unsafe_name(name, entry.repo)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        for name in CARDS:
            if name in entry.files:
                (folder / name).write_bytes(lock.hub_file(entry, name).read_bytes())
        splits = splits_of(folder, entry, Path(temporary) / "cache")
    split = entry.split or ("train" if "train" in splits else next(iter(splits)))
    if split not in splits or (entry.split is None and split != "train" and len(splits) > 1):
        told = f"has no split {shown(split)}" if entry.split else "has several splits: set hf_split"
        raise PlumblineError(f"{entry.repo} {told} (there are: {', '.join(splits)})")
    return split, splits[split]


def splits_of(folder: Path, entry: "lock.Entry", cache: Path) -> dict[str, list[str]]:
    """Return {split: files} of a configuration of the data set in a folder, as the library finds them."""
    import datasets  # 1 s

    try:
        builder = datasets.load_dataset_builder(str(folder), name=entry.config, cache_dir=str(cache))
    except Exception as error:  # whatever it cannot make of a card that others wrote
        told = " ".join(str(error).replace(str(folder), entry.repo).split())[:400]
        hint = "; name one by hf_config" if "onfig name is missing" in told else ""
        raise PlumblineError(f"the datasets library finds no rows in {entry.repo} ({told}){hint}") from None
    found = builder.config.data_files or {}
    base = folder.resolve()
    return {
        str(split): [PurePosixPath(file).relative_to(base).as_posix() for file in files]
        for split, files in found.items()
    }


def refuse_scripts(entry: "lock.Entry") -> None:
    """Raise PlumblineError for a data set that a script of its own loads, and for one of more files than we look at."""
    script = f"{entry.repo.rpartition('/')[2]}.py"
    if script in entry.files:
        raise PlumblineError(
            f"{entry.repo} is loaded by a script ({script}), which is never run; the hub may have its rows as Parquet: "
            "try revision: refs/convert/parquet"
        )
    if len(entry.files) > MOST_FILES:
        raise PlumblineError(f"{entry.repo} has {len(entry.files)} files; at most {MOST_FILES} are looked at")
