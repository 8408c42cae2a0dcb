"""Thumbnails of all images of a folder: tasks read and write files, and only names travel.

    python examples/thumbnails.py ~/Pictures --backend multicore

They go to the folder `thumbnails` within it, unless `--out` says otherwise.  An image that cannot be read
fails alone: the others are made, and the last lines say what is wrong with it.
Needs `pip install pillow`.
"""

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from pools_core import Failure, MakePool

SUFFIXES = {".gif", ".jpeg", ".jpg", ".png", ".webp"}


def make_thumbnail(path: Path, out: Path, size: int) -> str:
    """Write a smaller image of the same name, and return what became of its size."""
    with Image.open(path) as image:
        before = image.size
        image.thumbnail((size, size))
        image.save(out / path.name)
        return "{} x {} -> {} x {}".format(*before, *image.size)


def main() -> None:
    """Read the options, make the thumbnails, print a line for each."""
    parser = argparse.ArgumentParser(description="Make thumbnails of the images of a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="another folder for the thumbnails")
    parser.add_argument("--size", type=int, default=128, help="their longer side, in pixels")
    parser.add_argument("--backend", help="by name; default: the configured one, or else multicore")
    parser.add_argument("--config", help="a .ini or .toml file with the backend's options")
    args = parser.parse_args()

    images = sorted(path for path in args.folder.resolve().iterdir() if path.suffix.lower() in SUFFIXES)
    out = (args.out or args.folder / "thumbnails").resolve()
    if out == args.folder.resolve():
        parser.error("thumbnails have the names of their images, so they need a folder of their own")
    out.mkdir(parents=True, exist_ok=True)

    failures = []
    with MakePool(args.backend, config=args.config) as pool:
        task = functools.partial(make_thumbnail, out=out, size=args.size)
        results: Iterator[str | Failure] = pool.imap(task, images, on_error="return")
        for path, done in zip(images, results, strict=True):
            if isinstance(done, Failure):
                failures.append(f"no thumbnail of {path.name}: {done.error}")
            else:
                print(f"{path.name}: {done}")
    print(f"{len(images) - len(failures)} thumbnails in {out}", *failures, sep="\n")


if __name__ == "__main__":
    main()
