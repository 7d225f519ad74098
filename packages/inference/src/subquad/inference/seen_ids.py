"""The ids of records that were read, in a temporary file of the disk, so that memory does not grow with them."""

import sqlite3

from subquad.inference.errors import OutputError


class SeenIds:
    """Remembers ids with the lines that they came on.

    SQLite keeps up to two megabytes of them in memory and the others in a file without a name, in its folder for
    temporary files (``SQLITE_TMPDIR``, ``TMPDIR``, ``/var/tmp`` or ``/tmp``), which goes when this object does.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")

    def add(self, record_id: str, line: int) -> int:
        """Remembers an id unless it is known.

        Args:
          record_id: The id, a Unicode text.
          line: The line of its record.

        Returns:
          The line that it came on first, which is ``line`` where it is new.

        Raises:
          OutputError: There is no room for the file.
        """
        try:
            if self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (record_id, line)).rowcount:
                return line
            return int(self._database.execute("SELECT line FROM seen WHERE id = ?", (record_id,)).fetchone()[0])
        except sqlite3.OperationalError as error:
            raise OutputError("the temporary file of the ids that were read", str(error)) from None

    def close(self) -> None:
        """Forgets everything."""
        self._database.close()
