"""The command."""

import argparse
import pathlib
import sys

from .. import report
from . import charts, rows, text

BEGIN, END = "<!-- gpu-table:begin -->", "<!-- gpu-table:end -->"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.report", description=(report.__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("rows", nargs="+", type=pathlib.Path, help="files of rows, of one device")
    add("--out", type=pathlib.Path, help="folder of the report (that of the first file)")
    add("--page", type=pathlib.Path, help="a file with markers, whose table is replaced; refused for a dry run")
    args = parser.parse_args(argv)
    out = args.out or args.rows[0].parent
    try:
        runs = rows.read(args.rows)
        if args.page:
            refuse(runs, args.page)
    except ValueError as error:
        print(f"bench.report: {error}", file=sys.stderr)
        return 1
    products, said = rows.timed(runs), text.label(runs)
    out.mkdir(parents=True, exist_ok=True)
    plots = charts.draw(runs, products, said, out)
    page = out / ("README-dry-run.md" if said.dry else "README.md")
    page.write_text(text.readme(runs, products, plots), encoding="utf-8")
    print(f"{said.measured}: {page}, {', '.join(plots) or 'no plots'}")
    if args.page:
        where = out.resolve().relative_to(args.page.resolve().parent, walk_up=True).as_posix()
        args.page.write_text(replaced(args.page.read_text(), text.short(runs, products, where)), encoding="utf-8")
        print(f"{args.page}: the table between its markers")
    return 0


def refuse(runs: list[rows.Run], page: pathlib.Path) -> None:
    """Raises ValueError for rows that are not a GPU's, and for a file without markers."""
    if runs[0].dry:
        raise ValueError(f"--page: {runs[0].name} is of a dry run, whose numbers are no GPU's; leave --page out")
    content = page.read_text(encoding="utf-8")
    if content.count(BEGIN) != 1 or content.count(END) != 1 or content.index(BEGIN) > content.index(END):
        raise ValueError(f"{page} must have one line {BEGIN} and, below it, one line {END}")


def replaced(content: str, table: str) -> str:
    """The file with another table between its markers."""
    before, _, rest = content.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
