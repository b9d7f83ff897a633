"""The findings as tables in the terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from palate.audits.findings import Findings
from palate.audits.words import (
    best_judge,
    bias,
    configuration,
    number,
    percent,
    person_line,
    picked_lines,
    question_lines,
    source_name,
    step_name,
)
from palate.data.schema import OVERALL
from palate.foreign import printable

_PEOPLE_SHOWN = 20
_COUPLES_SHOWN = 5
_WIDE = 100  # columns; in a narrower terminal intervals go below their numbers


def print_findings(findings: Findings, console: Console) -> None:
    """The recommendation first, then judges, people, the value of more votes, and what could not be measured."""
    advice = findings.recommendation
    on = "" if findings.question == OVERALL else f" on {escape(findings.question)}"
    console.print(
        f"[bold]{escape(findings.dataset)}[/]  {findings.pairs:,} pairs, {findings.labelled:,} with a human vote{on}\n"
    )
    _say(console, f"[bold]{escape(advice.sentence)}[/]\n{escape(advice.reason)}")
    if advice.configuration:
        console.print(
            escape("\n" + "\n".join("  " + line for line in configuration(findings).splitlines())), soft_wrap=True
        )
    if findings.judges:
        console.print()
        console.print(_judges(findings, console.width))
        if line := person_line(findings):
            _say(console, escape(line))
        for line in judge_lines(findings):
            _say(console, escape(line))
    if findings.picked:
        _say(console, escape("\n" + "\n".join(picked_lines(findings.picked))))
    if findings.people.persons:
        console.print()
        console.print(_people(findings, console.width))
    if findings.people.warning:
        console.print(_couples(findings))
        _say(console, f"[red]{escape(findings.people.warning)}[/]")
    if findings.plan:
        console.print()
        console.print(_plan(findings))
        if findings.plan_words:
            _say(console, escape(findings.plan_words))
    if findings.questions:
        console.print()
        console.print(_questions(findings))
        for line in question_lines(findings):
            _say(console, escape(line))
    if findings.suspects:
        worst = findings.suspects[0]
        text = (
            f"\nvotes to look at: {len(findings.suspects)} on the page; first {worst.annotator} on {worst.pair_id} "
            f"({worst.prompt!r}), opposed by others with probability {min(worst.flip, 0.99):.2f}"
        )
        _say(console, escape(text))
    for note in findings.notes:
        _say(console, f"[dim]· {escape(note)}[/]")


def judge_lines(findings: Findings) -> list[str]:
    """One line for each finding and each reservation about a judge."""
    return [f"{judge.name}: {text}" for judge in findings.judges for text in (judge.finding, *judge.notes) if text]


def _say(console: Console, text: str) -> None:
    """A sentence: wrapped at words on a terminal, one line in a file or a pipe."""
    console.print(printable(text), soft_wrap=not console.is_terminal)


def _judges(findings: Findings, width: int) -> Table:
    """A narrow table leaves out the judges' biases: the lines below it name them in words."""
    favours = ["favours"] if width >= _WIDE else []
    table = _table("judge", "agrees with people", "skill", "n", *favours, "power", "variance", "worth")
    for judge in findings.judges:
        gain = judge.gain
        cells = [
            source_name(judge),
            percent(judge.accuracy),
            percent(judge.skill),
            f"{judge.accuracy.n:,}" if judge.accuracy else "–",
            *[bias(judge) for _ in favours],
            f"{gain.power.value:.2f}" if gain else "–",
            number(gain.variance if gain else None),
            number(gain.worth if gain else None, 0),
        ]
        table.add_row(*_fitted(cells, width))
    table.caption = (
        f"skill: 1 − Brier score / that of always saying one half ({_reference(findings)} on these votes)\n"
        "variance: of DeDPO at that power, relative to human votes alone; worth: labelled pairs they alone would need"
    )
    table.caption_justify = "left"
    return table


def _reference(findings: Findings) -> str:
    """The Brier scores of always saying one half; several where judges voted on different pairs."""
    found = sorted({f"{judge.brier_reference:.2f}" for judge in findings.judges if judge.brier_reference is not None})
    return " to ".join(found[:1] + found[1:][-1:])


def _people(findings: Findings, width: int) -> Table:
    people = findings.people
    models = ("Dawid-Skene", "Bradley-Terry") if width >= _WIDE else ("Dawid-\nSkene", "Bradley-\nTerry")
    table = _table("person", "votes", "agrees with others", "n", "with oneself", *models, "first shown")
    for person in people.persons[:_PEOPLE_SHOWN]:
        cells = [
            f"{person.votes:,}", percent(person.agrees), f"{person.shared:,}", percent(person.again),
            percent(person.dawid_skene), percent(person.bradley_terry), percent(person.first),
        ]  # fmt: skip
        name = f"[red]{escape(person.name)} (opposed)[/]" if person.opposed else escape(person.name)
        table.add_row(name, *_fitted(cells, width))
    if len(people.persons) > _PEOPLE_SHOWN:
        table.add_row(f"{len(people.persons) - _PEOPLE_SHOWN:,} more")
    told = []
    if people.alpha:
        told.append(f"Krippendorff's alpha {number(people.alpha)} on {people.alpha.n:,} shared pairs")
    told += [
        f"{p.name}: {percent(p.known)} right of {p.known.n:,} pairs with a known answer"
        for p in people.persons[:_PEOPLE_SHOWN]
        if p.known
    ]
    if told:
        table.caption, table.caption_justify = escape("\n".join(told)), "left"
    return table


def _couples(findings: Findings) -> Table:
    """The couples that answer most alike beyond what being right explains."""
    table = _table("\ncouple", "\nsame image", "\nexcess", "\nn")
    for couple in findings.people.couples[:_COUPLES_SHOWN]:
        name = escape(f"{couple.first} and {couple.second}")
        cells = [percent(couple.same), number(couple.excess), f"{couple.shared:,}"]
        table.add_row(f"[red]{name}[/]" if couple.flagged else name, *map(escape, cells))
    if len(findings.people.couples) > _COUPLES_SHOWN:
        table.add_row(f"{len(findings.people.couples) - _COUPLES_SHOWN:,} more")
    return table


def _plan(findings: Findings) -> Table:
    names = list(findings.plan[0].judges)
    table = _table("labelled pairs", "alone", *(escape(step_name(name)) for name in names), "new prompts")
    for step in findings.plan:
        cells = [f"± {step.judges[name]:.1f} (like {step.worth[name]:,.0f})" for name in names]
        table.add_row(
            f"{step.votes:,}{' (now)' if step.now else ''}", f"± {step.alone:.1f}", *cells, f"± {step.new_prompts:.1f}"
        )
    table.caption = (
        "half of a 95 % interval of a share, in percentage points; in brackets the labelled pairs that human votes"
        " alone would need; new prompts: human votes alone, every labelled pair of a prompt of its own"
    )
    table.caption_justify = "left"
    return table


def _questions(findings: Findings) -> Table:
    table = _table("question", "votes", "pairs", "people", "ties", "best judge there", "agrees with people", "Brier")
    for asked in findings.questions:
        judges = findings.judges if asked.name == findings.question else asked.judges
        best = best_judge(judges)
        judged = [escape(source_name(best)), percent(best.accuracy), number(best.brier)] if best else ["–"] * 3
        counts = (asked.votes, asked.pairs, asked.people, asked.ties)
        table.add_row(escape(asked.name), *(f"{count:,}" for count in counts), judged[0], *map(escape, judged[1:]))
    return table


def _fitted(cells: list[str], width: int) -> list[str]:
    """The cells as rich reads them; in a narrow terminal with intervals below their numbers, never broken inside."""
    return [escape(cell if width >= _WIDE else cell.replace(" [", "\n[")) for cell in cells]


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in (first, *others):
        table.add_column(name, overflow="fold")
    return table
