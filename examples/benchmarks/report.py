"""What was found out, for a terminal, a page or a program."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import table
from team import Team

MANY_FAULTS = 1000  # 4 MiB, where a sequence takes 12 or more


@dataclasses.dataclass(kw_only=True)
class Report:
    """Everything about a measurement.

    Attributes:
        facts: what it ran on, by name.
        about: what each side says about itself.
        absent: why others could not be started.
        missing: peers that nobody asked for.
        rows: the measurements.
        columns: of the table.
    """

    facts: Mapping[str, str]
    about: Mapping[str, Mapping[str, Any]]
    absent: Mapping[str, str]
    missing: Sequence[str]
    rows: Sequence[table.Row]
    columns: Sequence[table.Column]

    @classmethod
    def of(cls, team: Team, peers: Sequence[str], **rest: Any) -> Report:
        """About the sides of a team, out of these `peers` and our own."""
        missing = [side for side in peers if side not in team.about and side not in team.absent]
        return cls(about=team.about, absent=team.absent, missing=missing, **rest)

    def text(self) -> str:
        """For a terminal."""
        facts = [f"{name}: {value}" for name, value in self.facts.items()]
        body = table.as_text(self.rows, self.columns)
        return "\n".join([*facts, "", *self._notes(), "", body])

    def markdown(self) -> str:
        """For a page."""
        facts = "\n".join(f"- {name}: {value}" for name, value in self.facts.items())
        notes = "\n".join(f"- {note}" for note in self._notes())
        return f"{facts}\n\n{table.as_markdown(self.rows, self.columns)}\n\n{notes}\n"

    def json(self, **more: Any) -> str:
        """For a program."""
        everything = {
            "facts": self.facts,
            "sides": self.about,
            "absent": self.absent,
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }
        return json.dumps(everything | more, indent=2)

    def publish(self, args: argparse.Namespace, **more: Any) -> None:
        """Print it, and write the files that were asked for."""
        print(self.text())
        if args.markdown:
            args.markdown.write_text(self.markdown())
        if args.json:
            args.json.write_text(self.json(**more))

    def _notes(self) -> list[str]:
        notes = []
        references = table.references(self.about)
        for side, about in self.about.items():
            versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
            details = (f"{name} {value}" for name, value in about["details"].items())
            parts = [f"{side}: {versions}", about["layout"], *details, about["notes"]]
            if references[side] != "ours":
                parts.append(f"compared with {references[side]}")
            notes.append("; ".join(filter(None, parts)))
        notes += [f"{side}: not available: {reason}" for side, reason in self.absent.items()]
        if self.missing:
            notes.append(f"not asked for (--peer): {', '.join(self.missing)}")
        return notes + self._cautions()

    def _cautions(self) -> list[str]:
        """What makes the numbers less than comparable."""
        found = []
        versions = {side: about["versions"].get("jax") for side, about in self.about.items()}
        apart = [
            side
            for side, reference in table.references(self.about).items()
            if versions[side] and versions[side] != versions.get(reference, versions[side])
            if not side.startswith("ours-jax-")
        ]
        if apart:
            found.append(
                f"CAUTION: not on the jax of the side they are compared with: {', '.join(apart)}; "
                "--peer ours=PYTHON measures ours on theirs"
            )
        faulty = [row for row in self.rows if row.faults and row.faults > MANY_FAULTS]
        if faulty:
            listed = ", ".join(f"{row.side} at {row.case} ({row.faults:.0f})" for row in faulty)
            found.append(f"CAUTION: page faults in every run: {listed}")
        return found
