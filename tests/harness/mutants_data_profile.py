"""Mutants of profile, gap and probes: what tells values, miscounts, misses a leak, or calls a gap none."""

from __future__ import annotations

from mutants import Mutant

PROFILE, SHAPES, COVERAGE, POPULATION = (
    "data/profile.py",
    "data/shapes.py",
    "data/coverage.py",
    "data/population.py",
)
GAP, COLUMNS, SINGLE, PROBES, GROUPS, ENTITIES = (
    "data/gap.py",
    "data/gap_columns.py",
    "data/single.py",
    "data/probes.py",
    "data/groups.py",
    "data/entities.py",
)
FEATURES, VERBS = "pipeline/stages/features.py", "cli/profile.py"
PROFILED, COMPARED, PROBED = "test_data_profile.py", "test_data_gap.py", "test_data_probes.py"


def mutant(name: str, file: str, old: str, new: str, tests: str, only: str) -> Mutant:
    return Mutant(name, file, old, new, tests, only)


MUTANTS = (
    mutant(
        "a profile tells who it is about",
        PROFILE,
        "told=name not in hidden",
        "told=True",
        PROFILED,
        "nobodys_values",
    ),
    mutant("a profile tells identifiers", PROFILE, "and not identifies", "", PROFILED, "identifies_its_row"),
    mutant(
        "shapes keep their letters",
        SHAPES,
        '_BYTES[ord("a") : ord("z") + 1] = ord("a")',
        "",
        PROFILED,
        "one_shape",
    ),
    mutant("what is not ASCII is told", SHAPES, '_BYTES[128:] = ord("a")', "", PROFILED, "one_shape"),
    mutant(
        "undeclared categories are told",
        PROFILE,
        "categories={value: found.named[value] for value in named},",
        "categories=dict(found.named) | {'east': 1},",
        PROFILED,
        "declared_categories",
    ),
    mutant(
        "NaN is a number like any other",
        PROFILE,
        'return ibis.ifelse(column.isnan() | column.isinf(), ibis.null("float64"), column + 0.0)',
        "return column",
        PROFILED,
        "numbers_that_are_none",
    ),
    mutant(
        "duplicates are looked for in one column",
        PROFILE,
        "for name in table.columns}).hash()",
        "for name in table.columns[1:2]}).hash()",
        PROFILED,
        "exact_duplicates",
    ),
    mutant(
        "time ends in 2038",
        PROFILE,
        'column.delta(ibis.timestamp("1970-01-01 00:00:00"), unit="second")',
        "column.epoch_seconds()",
        PROFILED,
        "ends_of_the_calendar",
    ),
    mutant(
        "first and last record cover a cycle",
        COVERAGE,
        "covers_cycle=longest >= cycle_months",
        'covers_cycle=months[-1]["month"] - months[0]["month"] + 1 >= cycle_months',
        PROFILED,
        "covered_by_months or long_ago",
    ),
    mutant(
        "any records are like the population",
        POPULATION,
        "distance=round(distance(shares, found), 9)",
        "distance=0.0",
        PROFILED,
        "unlike_the_declared",
    ),
    mutant(
        "growth of what is missing is not seen", COLUMNS, "if growth <= 0:", "if True:", COMPARED, "its_mend"
    ),
    mutant(
        "blanks and n/a count as values",
        "data/profiled.py",
        "return self.missing + self.blank + self.placeholders + self.not_finite",
        "return self.missing",
        COMPARED,
        "its_mend",
    ),
    mutant(
        "new ways of writing are not seen",
        COLUMNS,
        "if new and share > 0:",
        "if False:",
        COMPARED,
        "its_mend",
    ),
    mutant(
        "new categories are not seen", COLUMNS, "    if share:\n", "    if False:\n", COMPARED, "its_mend"
    ),
    mutant(
        "values beyond are not seen",
        COLUMNS,
        "if float(now.high) > high or float(now.low) < low:",
        "if False:",
        COMPARED,
        "its_mend",
    ),
    mutant(
        "nothing is ever worse",
        COLUMNS,
        "return self.value > self.bound",
        "return False",
        COMPARED,
        "its_mend",
    ),
    mutant(
        "two pilots are compared",
        GAP,
        "if pilot.package != production.package:",
        "if False:",
        COMPARED,
        "no_pass or ends_with_3",
    ),
    mutant("no records are a pass", GAP, "if not all(rows):", "if False:", COMPARED, "no_pass"),
    mutant(
        "production's profile replaces the pilot's",
        VERBS,
        "if kept.exists() and kept.read_bytes() != file.read_bytes():",
        "if False:",
        COMPARED,
        "not_overwritten",
    ),
    mutant(
        "a gap ends with 0", VERBS, "raise typer.Exit(1)", "raise typer.Exit(0)", COMPARED, "not_overwritten"
    ),
    mutant(
        "a proxy of the outcome passes",
        PROBES,
        "if single.at_least >= PROXY[single.measure]:",
        "if False:",
        PROBED,
        "knows_the_outcome",
    ),
    mutant(
        "what tells too much only warns",
        PROBES,
        "stops = single.at_least >= stop",
        "stops = False",
        PROBED,
        "knows_the_outcome",
    ),
    mutant(
        "only ranks are looked at",
        SINGLE,
        "found = [_judged(_looked_up(left, train_label, right), test_label, choice)]",
        "found = [Single('auc' if choice else 'rank_correlation', 0.0, 0.0, 0)]",
        PROBED,
        "knows_the_outcome",
    ),
    mutant(
        "only features are looked at",
        PROBES,
        "for field in fields if field.name not in sides.names",
        "for field in fields if False",
        PROBED,
        "knows_the_outcome",
    ),
    mutant(
        "chance passes for a leak",
        SINGLE,
        'return Single("auc", value, value - BELOW * _error_of_auc(value, fewer), fewer)',
        'return Single("auc", value, value + 0.3, fewer)',
        PROBED,
        "chance or clean",
    ),
    mutant(
        "dates after the decision pass",
        PROBES,
        "if not number:\n",
        "if True:\n",
        PROBED,
        "knows_the_outcome or ahead",
    ),
    mutant(
        "a leak is called planned",
        PROBES,
        "and not f.planned",
        "",
        PROBED,
        "declared_planned",
    ),
    mutant(
        "what is filled in with the outcome passes",
        PROBES,
        "if later > share / 10 or stats.binom.cdf(there_unknown, unknown, share) > BY_CHANCE:",
        "if True:",
        PROBED,
        "once_the_outcome_is_known",
    ),
    mutant(
        "what is rare is called a leak",
        PROBES,
        " or stats.binom.cdf(there_unknown, unknown, share) > BY_CHANCE",
        "",
        PROBED,
        "rare_may_be_absent",
    ),
    mutant(
        "entities are not kept apart",
        FEATURES,
        "if contract.entities_apart:",
        "if False:",
        PROBED,
        "left_out_of",
    ),
    mutant(
        "blanks and case make two of one",
        ENTITIES,
        "return column.strip().lower() if",
        "return column if",
        PROBED,
        "written_in_two_ways",
    ),
    mutant(
        "small groups pass",
        GROUPS,
        "if each.share < bounds.min_group_share:",
        "if False:",
        PROBED,
        "group_of_too_few",
    ),
    mutant(
        "names of groups are told",
        GROUPS,
        'name if known or name == MISSING else f"group {number}"',
        "name",
        PROBED,
        "nobody_declared",
    ),
    mutant(
        "whatever is accepted is gone",
        PROBES,
        'replace(found, severity="accepted", accepted=why)',
        'replace(found, severity="accepted")',
        PROBED,
        "stands_for",
    ),
    mutant(
        "one category in every row is nothing",
        PROBES,
        "        *_one_value(records, contract),\n",
        "",
        PROBED,
        "one_category",
    ),
)
