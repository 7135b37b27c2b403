"""Files from the web, kept in the user's cache and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aru_lab.errors import DataError
from aru_lab.terminal import progress_console


def fetch(url: str, md5: str, shelf: str, what: str) -> Path:
    """Return the file at `url` from the user's cache; download it first if necessary.

    Args:
        url: what to get.
        md5: the file's checksum.
        shelf: folder of the cache.
        what: the file's name in a sentence.

    Raises:
        DataError: the download failed, or the file has another checksum.
    """
    import pooch

    pooch.get_logger().setLevel("ERROR")
    base, _, name = url.rpartition("/")
    cache = pooch.create(
        path=pooch.os_cache("aru_kernels") / shelf,
        base_url=f"{base}/",
        registry={name: f"md5:{md5}"},
        retry_if_failed=1,
    )
    try:
        with _DownloadBar(name) as bar:
            return Path(cache.fetch(name, downloader=pooch.HTTPDownloader(progressbar=bar, timeout=30)))
    except OSError as error:  # some errors of requests are a ValueError too
        raise DataError(
            f"{url}: the download failed ({type(error).__name__}); connect to the network, or get {what} elsewhere "
            "and point --data-dir or ARU_DATA_DIR at the folder."
        ) from error
    except ValueError as error:
        raise DataError(
            f"{url}: the download does not have the checksum of {what}; try again, or get the file elsewhere and "
            "point --data-dir or ARU_DATA_DIR at its folder."
        ) from error


class _DownloadBar:
    """rich's progress bar behind the four names that pooch calls: total, update, reset, close."""

    def __init__(self, name: str) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=progress_console(stderr=True))
        self._task = self._progress.add_task(f"downloading {name}", total=None, visible=False)

    def __enter__(self) -> _DownloadBar:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    @property
    def total(self) -> float | None:
        return self._progress.tasks[0].total

    @total.setter
    def total(self, size: float) -> None:
        self._progress.update(self._task, total=size, visible=True)

    def update(self, n_bytes: int) -> None:
        self._progress.advance(self._task, n_bytes)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        self._progress.refresh()
