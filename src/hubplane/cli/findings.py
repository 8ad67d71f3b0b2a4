"""What `hubplane check` found, in plain words and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

__all__ = ["Finding", "Report", "Verdict"]

Verdict = Literal["ok", "note", "unknown", "warning", "failed"]

_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What was looked at, one of the names in docs/how-to/check.md.
        verdict: "ok"; "note" for what is good to know; "unknown" where Redis would not say; "warning" for what works
            and should be changed; "failed" for what keeps hubplane from working.
        text: What was found, in whole sentences.
        advice: What to do about it.
        data: The figures behind it, for programs.
    """

    check: str
    verdict: Verdict
    text: str
    advice: str = ""
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """All findings on one configuration.

    Attributes:
        target: What was checked, without any password.
        findings: In the order in which they were made.
    """

    target: str
    findings: list[Finding] = field(default_factory=list)

    def add(self, *findings: Finding) -> None:
        """Append findings."""
        self.findings += findings

    @property
    def verdict(self) -> Verdict:
        """The gravest of: ok, warning, failed."""
        verdicts = {finding.verdict for finding in self.findings}
        return "failed" if "failed" in verdicts else "warning" if "warning" in verdicts else "ok"

    @property
    def conclusion(self) -> str:
        """One sentence."""
        warnings = sum(finding.verdict == "warning" for finding in self.findings)
        if self.verdict == "failed":
            return "hubplane does not work on this Redis: see what failed above."
        if warnings:
            return f"hubplane works on this Redis, with {warnings} warning{'s' if warnings > 1 else ''}."
        return "hubplane works on this Redis."

    def words(self) -> str:
        """For people."""
        lines = [self.target, ""]
        for finding in self.findings:
            head = f"{finding.verdict:8} {finding.check:12} "
            text = f"{finding.text} {finding.advice}".strip()
            lines += textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
        return "\n".join([*lines, "", self.conclusion])

    def json(self) -> str:
        """For programs."""
        whole = {
            "target": self.target,
            "verdict": self.verdict,
            "conclusion": self.conclusion,
            "findings": [asdict(finding) for finding in self.findings],
        }
        return json.dumps(whole, indent=2, ensure_ascii=False)
