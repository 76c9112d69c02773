"""Mutants of what holds of records: rules, volume, freshness, expectations, corrections."""

from __future__ import annotations

from mutants import Mutant

RULES, CHECKS, VOLUME = "rules.py", "data/checks.py", "data/volume.py"
EXPECTATIONS, CORRECTIONS, VALIDATE = (
    "data/expectations.py",
    "data/corrections.py",
    "pipeline/stages/validate.py",
)
DECLARING, CORRECTING = "test_rules.py", "test_replay.py"

MUTANTS = (
    Mutant(
        "what is unknown breaks a rule",
        RULES,
        "else found) is False",
        "else found) is not True",
        DECLARING,
        "absent",
    ),
    Mutant(
        "false and unknown are unknown",
        RULES,
        "return Known(False if one is False or two is False else None",
        "return Known(None if one is None or two is None else one and two) if True else Known(None",
        DECLARING,
        "absent",
    ),
    Mutant(
        "a rule is not asked on the engine",
        CHECKS,
        "found[rule.name] = ibis.coalesce(~holds, False)",
        "found[rule.name] = ibis.coalesce(~holds, False) & False",
        DECLARING,
        "warns",
    ),
    Mutant(
        "a rule that warns sets aside",
        CHECKS,
        'sets_aside = [rule for rule in flags if contract.severity(rule) != "warn"]',
        "sets_aside = list(flags)",
        DECLARING,
        "warns",
    ),
    Mutant(
        "a request may break a rule",
        "serving/schema.py",
        "if broken := contract.breaks(vars(said)):",
        "if broken := contract.breaks({name: None for name in fields}):",
        DECLARING,
        "refused_by_its_name",
    ),
    Mutant(
        "an extract that broke off is enough",
        VOLUME,
        "self.last < volume.drop_to * self.usual",
        "self.last < 0 * volume.drop_to * self.usual",
        CORRECTING,
        "broke_off",
    ),
    Mutant(
        "months without a record are left out of what is usual",
        VOLUME,
        "past = [windows.get(number, 0) for number in range(1, first)]",
        "past = [windows[number] for number in range(1, first + 1) if number in windows]",
        DECLARING,
        "too_few",
    ),
    Mutant(
        "a rule that stops only sets aside",
        VALIDATE,
        'for rule, count in quality.broken(contract, "stop").items():',
        'for rule, count in quality.broken(contract, "never").items():  # type: ignore[arg-type]',
        CORRECTING,
        "stops_does_so",
    ),
    Mutant(
        "an expectation stops nothing",
        EXPECTATIONS,
        'if not each.met and each.expected.severity == "stop":',
        'if each.met and each.expected.severity == "stop":',
        CORRECTING,
        "expectation",
    ),
    Mutant(
        "stale data is fresh",
        EXPECTATIONS,
        "if last is None or (today - last).days > allowed:",
        "if last is None:",
        CORRECTING,
        "last_months_file",
    ),
    Mutant(
        "a correction counts though the source is mended",
        CORRECTIONS,
        "    good = good.semi_join(aside, contract.key)\n",
        "",
        CORRECTING,
        "until_the_source",
    ),
    Mutant(
        "a correction is not held to the contract",
        CORRECTIONS,
        "_, good, _ = checks.check(brought, contract)",
        "good = brought",
        CORRECTING,
        "newer_contract",
    ),
    Mutant(
        "anybody may read what was set aside",
        "monitor/replay.py",
        "0o600)",
        "0o644)",
        CORRECTING,
        "owner_alone",
    ),
)
