"""The folder of one run: its settings, its files, and how far it has come."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RunFolder:
    """A folder that belongs to one run with one set of settings, and outlives interruptions.

    Every file appears whole or not at all, so that whatever is there can be relied on when the run goes on.

    Args:
        path: The folder, made if it is missing.
        settings: What the outcome of the run depends on, as JSON can hold it. A folder that was made with other
            settings is refused. None for a run that always starts anew.

    Raises:
        OSError: If the folder cannot be made or written.
        ValueError: If the folder belongs to a run with other settings.
    """

    def __init__(self, path: str | os.PathLike, settings: Mapping[str, Any] | None = None):
        self.path = pathlib.Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise type(error)(
                f"Expected an --output_dir that can be written ({error.strerror}). Received: {str(self.path)!r}"
            ) from None
        if settings is not None:
            if self.has("settings.json"):
                self._check_settings(settings)
            else:
                self.write_json("settings.json", dict(settings))

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        before = self.read_json("settings.json")
        for name in {**before, **settings}:
            if before.get(name) != settings.get(name):
                raise ValueError(
                    f"Expected the settings that {str(self.path)!r} was made with, --{name}={before.get(name)}, or "
                    f"another --output_dir. Received: --{name}={settings.get(name)}"
                )

    def __truediv__(self, name: str) -> pathlib.Path:
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether the run has written that file."""
        return (self.path / name).exists()

    def remove(self, name: str) -> None:
        """Removes a file or folder of the run, if it is there."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[str]:
        """Yields the path to write a file to, which takes its name when the block ends well."""
        aside = self.path / f".writing-{name}"  # the ending stays: Keras and Matplotlib tell formats by it
        try:
            yield str(aside)
            os.replace(aside, self.path / name)
        finally:
            aside.unlink(missing_ok=True)

    def save_figures(self, figures: Mapping[str, Figure]) -> None:
        """Writes figures under the names that they are mapped from."""
        for name, figure in figures.items():
            with self.writing(name) as aside:
                figure.savefig(aside)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as JSON."""
        with self.writing(name) as aside:
            pathlib.Path(aside).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    def read_json(self, name: str) -> Any:
        """Reads a value that `write_json` wrote.

        Raises:
            ValueError: If the file holds something else.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"Expected JSON ({error}). Received: the file {str(self.path / name)!r}") from None
