r"""Questions to an SQLite file: a grammar made of its own tables and columns, and a connection that only reads.

    python -m examples.recipes.text_to_sql shop.db \
        "Which customers are from Bergen?"

No query can name a table or a column that isn't there, hold a second statement or change anything: the grammar has no
words for it, and SQLite refuses it once more. The small model writes valid queries that often miss the point; an 8B
finds the right table and conditions for everyday questions on one table. Joins are left to a larger grammar.
"""

import json
import re
import sqlite3
import sys
from pathlib import Path

from examples.recipes import arguments, run
from llama3_mlx import Llama

Rows = list[tuple[object, ...]]
_ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)
# What all tables share; the sizes are limits, so that every query ends.
_COMMON = r"""
value: /-?[0-9]{1,9}(\.[0-9]{1,4})?/ | /'[^'\n]{0,40}'/
operator: " = " | " <> " | " < " | " > " | " LIKE "
limit: " LIMIT " /[1-9][0-9]?/
"""


def connect(file: Path) -> sqlite3.Connection:
    """Open a file for reading alone."""
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    connection.set_authorizer(_authorize)
    return connection


def _authorize(action: int, *_: object) -> int:
    """Allow a step of a query, or deny it."""
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def tables_of(file: Path) -> dict[str, list[str]]:
    """Return the columns of each table."""
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    try:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name")
        tables = [str(name) for (name,) in names if not str(name).startswith("sqlite_")]
        return {
            table: [str(name) for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
            for table in tables
        }
    finally:
        connection.close()


def quoted(name: str) -> str:
    """Return a name as SQL has it."""
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else '"{}"'.format(name.replace('"', '""'))


def grammar_of(tables: dict[str, list[str]]) -> str:
    """Return the grammar, in Lark's syntax, of queries on one of the tables."""
    rules = ["start: " + " | ".join(f"query{at}" for at in range(len(tables)))]
    for at, (table, columns) in enumerate(tables.items()):
        source = json.dumps(f" FROM {quoted(table)}")
        choice = " | ".join(json.dumps(quoted(name)) for name in columns)
        rules += [
            f'query{at}: "SELECT " what{at} {source} where{at}? order{at}? limit?',
            f'what{at}: "*" | "COUNT(*)" | function{at} | column{at} (", " column{at} (", " column{at})?)?',
            f'function{at}: ("AVG(" | "SUM(" | "MIN(" | "MAX(") column{at} ")"',
            f'where{at}: " WHERE " test{at} ((" AND " | " OR ") test{at})?',
            f"test{at}: column{at} operator value",
            f'order{at}: " ORDER BY " column{at} (" DESC")?',
            f"column{at}: {choice}",
        ]
    return "\n".join(rules) + _COMMON


def write_query(llama: Llama, tables: dict[str, list[str]], question: str, *, max_tokens: int = 120) -> str:
    """Return the query that answers a question; cut off, it may not be one."""
    described = "\n".join(f"{name}({', '.join(columns)})" for name, columns in tables.items())
    dialog = [
        {"role": "system", "content": f"Write one SQLite query for the question. The tables are:\n{described}"},
        {"role": "user", "content": question},
    ]
    return llama.chat(dialog, grammar=grammar_of(tables), max_tokens=max_tokens, temperature=0).text


def query(file: Path, text: str, *, most: int = 100) -> Rows:
    """Return the rows of a query. Raises sqlite3.Error for one that isn't valid, or that would do more than read."""
    connection = connect(file)
    try:
        return connection.execute(text).fetchmany(most)
    finally:
        connection.close()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("question")
    args = parser.parse_args()
    with Llama.load(args.model) as llama:
        text = write_query(llama, tables_of(args.file), args.question)
    print(text, file=sys.stderr)
    for row in query(args.file, text):
        print(*row, sep="\t")


if __name__ == "__main__":
    run(main)
