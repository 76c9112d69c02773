"""What can differ between the pilot's data and production's, how much it hurts, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of difference.

    Attributes:
        title: What it is, for a heading.
        weight: How much it hurts beside the others, all else equal. What is not there breaks; what is new
            misleads quietly.
        hurts: What it will do.
        mend: What to do about it.
    """

    title: str
    weight: float
    hurts: str
    mend: str


KINDS = {
    "table.gone": Kind(
        "A table is gone",
        20,
        "What is joined from it is missing everywhere.",
        "Ask its owner where the data lives now, and correct sources.py.",
    ),
    "table.new": Kind(
        "A table is new",
        1,
        "Nothing was measured with it.",
        "Judge the pilot's figures anew with it.",
    ),
    "column.gone": Kind(
        "A column is gone",
        16,
        "What is computed from it fails, or is missing in every record.",
        "Ask the owner whether it was renamed or dropped, and correct sources.py.",
    ),
    "column.new": Kind(
        "A column is new",
        1,
        "Some rows may have under this name what the others have under another.",
        "Ask the owner what it is; take it up in sources.py or leave it out.",
    ),
    "type.changed": Kind(
        "A column has another type",
        16,
        "It is read wrongly, or not at all.",
        "Cast it in sources.py, and test both.",
    ),
    "missing.grew": Kind(
        "More is missing in the records",
        9,
        "The model decides so many cases without it, and was hardly ever judged that way.",
        "Judge the model on records without it, mend the source, or do without the feature.",
    ),
    "missing.source": Kind(
        "More is missing in the sources",
        6,
        "What sources.py makes of it is missing as often, or is a guess.",
        "Ask the owner why, and say in sources.py what holds without it.",
    ),
    "missing.unseen": Kind(
        "Missing where nothing ever was",
        6,
        "Code that never saw a missing value fails, or decides from a default.",
        "Say in contract.py whether it may be absent, and test features and fallback without it.",
    ),
    "formats.new": Kind(
        "Written in ways that the pilot never saw",
        6,
        "What cannot be parsed becomes null, and what is parsed wrongly a wrong number or day.",
        "Parse them in sources.py, and let what cannot be read become null, never a guess.",
    ),
    "formats.mix": Kind(
        "Rare ways of writing are common now",
        2,
        "A way that was rare, and whose mistakes were too, is now common.",
        "Check how many of each way are parsed, and test the common ones in tests/.",
    ),
    "categories.new": Kind(
        "Categories that the pilot never saw",
        7,
        "The model was never trained on them, and its score there means nothing.",
        "Declare them in contract.py if they are right, and let the fallback decide until trained with.",
    ),
    "categories.mix": Kind(
        "Other categories prevail",
        4,
        "The pilot's figures are an average over others than production's.",
        "Judge by category, and declare the population in pilot.toml [data.population].",
    ),
    "keys.repeated": Kind(
        "Names of rows repeat",
        5,
        "Two rows of one name are two truths, and a join takes both.",
        "Say in sources.py which of them holds, the newest as a rule, and ask the owner for the key.",
    ),
    "range.beyond": Kind(
        "Values beyond the pilot's range",
        6,
        "A model does not extrapolate: beyond what it saw, it repeats its last answer.",
        "Check the unit and the parsing; then train on the whole range, or bound it in contract.py.",
    ),
    "range.centre": Kind(
        "The usual value is another",
        6,
        "Another unit, another currency or another business: scores there mean nothing.",
        "Ask the owner for the unit; convert it in sources.py.",
    ),
    "label.rate": Kind(
        "The outcome is more or less frequent",
        7,
        "Scores are too low or too high throughout, and the threshold decides for other shares than planned.",
        "Train on production's data, and set the threshold in contract.py anew.",
    ),
    "duplicates.grew": Kind(
        "More rows are duplicates",
        3,
        "Joins multiply them, sums count twice, and a model learns them by heart.",
        "Keep one of each in sources.py, and ask the owner why they are loaded twice.",
    ),
    "time.cycle": Kind(
        "The pilot saw no whole business cycle",
        6,
        "What happens in the rest of the cycle, such as a year's end, the model has never seen.",
        "Bring history of a whole cycle, or keep the rollout small until one has passed.",
    ),
    "time.unseen_months": Kind(
        "Months that the pilot never saw",
        4,
        "Whatever depends on the season is a guess there.",
        "Train on history that has every month.",
    ),
    "time.gaps": Kind(
        "Months without a record",
        4,
        "An outage or a wrong date: counts over time and history features are wrong around it.",
        "Ask the owner what happened; range-check the date in contract.py.",
    ),
    "volume": Kind(
        "Many times as many records",
        2,
        "Run time, memory and cost of the pilot say little about it.",
        "Time `pilot run` on production's volume, and set [data] memory_limit or engine for it.",
    ),
}
