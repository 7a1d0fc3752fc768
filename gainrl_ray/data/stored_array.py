"""Arrays by row or rank in a folder, mapped wherever they are needed."""

from dataclasses import dataclass

import numpy as np

from gainrl_ray.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArray:
    """An array that its maker has checked; crosses processes as its file's name."""

    folder: Storage
    name: str

    def open(self) -> np.ndarray:
        """The array, memory-mapped and read-only.

        Raises: DataError when the file is gone or not whole.
        """
        return self.folder.map_array(self.name)
