"""Write the schemas and the reference."""

from __future__ import annotations

from builder.schema import written_files

if __name__ == "__main__":
    for path, data in written_files().items():
        path.write_bytes(data)
