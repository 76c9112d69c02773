"""Mistakes in pilot.toml, the environment, params.yaml and simulation.yaml."""

from __future__ import annotations

from mistakes.planted import Mistake, appended, edited, removed

STATUS = ("status",)
FEATURES = ("stage", "features")

MISTAKES = (
    Mistake(
        "pilot.toml is missing",
        STATUS,
        ("pilot.toml: the file is missing", "Change into the pilot's folder"),
        removed("pilot.toml"),
    ),
    Mistake(
        "pilot.toml is no TOML",
        STATUS,
        ("pilot.toml: not valid TOML", "line", "Correct that line"),
        edited("pilot.toml", "[serving]", "[serving"),
    ),
    Mistake(
        "pilot.toml may not be read",
        STATUS,
        ("pilot.toml: cannot be read: Permission denied", "Give yourself the right"),
        lambda pilot: pilot.file("pilot.toml").chmod(0),
        nobody=True,
    ),
    Mistake(
        "a key is misspelt",
        STATUS,
        ("pilot.toml [serving]: unknown key 'prot'", "Did you mean 'port'?"),
        edited("pilot.toml", "port = 8080", "prot = 8080"),
    ),
    Mistake(
        "a section is misspelt",
        STATUS,
        ("pilot.toml: unknown key 'servng'", "Did you mean 'serving'?"),
        edited("pilot.toml", "[serving]", "[servng]"),
        rare=True,
    ),
    Mistake(
        "a breaker that would open before a model failed",
        STATUS,
        ("[serving]: 'breaker_failures': input should be greater than or equal to 1",),
        edited("pilot.toml", "port = 8080", "port = 8080\nbreaker_failures = 0"),
    ),
    Mistake(
        "the harness's own secret is named for the model",
        STATUS,
        ("'model_environment': no model reads PILOT_REMOTE__TOKEN, which is the harness's own",),
        edited("pilot.toml", "port = 8080", 'port = 8080\nmodel_environment = ["PILOT_REMOTE__TOKEN"]'),
    ),
    Mistake(
        "a database gets a folder's key",
        STATUS,
        ("[sources.erp]: a source of kind \"postgres\" has no 'path'", 'write kind = "csv"'),
        edited("pilot.toml", 'url = "embedded"', 'path = "var/sources/erp"'),
    ),
    Mistake(
        "a folder gets a database's key",
        STATUS,
        ("[sources.crm]: a source of kind \"csv\" has no 'url'", 'write kind = "postgres"'),
        edited("pilot.toml", 'path = "var/sources/crm"', 'url = "embedded"'),
        rare=True,
    ),
    Mistake(
        "a required key of a source is misspelt",
        STATUS,
        ("[sources.crm]: unknown key 'pth'", "Did you mean 'path'?"),
        edited("pilot.toml", 'path = "var/sources/crm"', 'pth = "var/sources/crm"'),
        rare=True,
    ),
    Mistake(
        "a source is of a kind that there is not",
        STATUS,
        ('pilot.toml [sources.crm]: there is no source of kind "ftp"', "Use one of postgres, csv"),
        edited("pilot.toml", 'kind = "csv"', 'kind = "ftp"'),
        rare=True,
    ),
    Mistake(
        "a value is out of range",
        STATUS,
        ("pilot.toml [serving]: 'port'", "less than or equal to 65535", "Correct it"),
        edited("pilot.toml", "port = 8080", "port = 80800"),
    ),
    Mistake(
        "a required key is missing",
        STATUS,
        ("pilot.toml [pilot]: 'owner' is missing", "Add it"),
        edited("pilot.toml", "owner =", "# owner ="),
        rare=True,
    ),
    Mistake(
        "a variable is no number",
        STATUS,
        ("pilot.toml [serving]: 'port'", "in the environment"),
        more={"PILOT_SERVING__PORT": "many"},
    ),
    Mistake(
        "the package's folder has another name",
        ("run",),
        ("pilot.toml [pilot] package: there is no folder src/payments", "Name the folder"),
        edited("pilot.toml", 'package = "late_payment"', 'package = "payments"'),
    ),
    Mistake(
        "params.yaml is no YAML",
        ("run",),
        ("params.yaml line 13: not valid YAML", "Correct that line"),
        appended("params.yaml", "  : [\n"),
    ),
    Mistake(
        "params.yaml has a share above one",
        ("run",),
        ("params.yaml: 'split.test_share'", "less than 1", "Correct it"),
        edited("params.yaml", "test_share: 0.25", "test_share: 25"),
    ),
    Mistake(
        "params.yaml is missing",
        ("run",),
        ("params.yaml: cannot be read: No such file", "git checkout"),
        removed("params.yaml"),
        rare=True,
    ),
    Mistake(
        "a parameter that model.py wants is missing",
        ("stage", "train"),
        ("model.py line", "KeyError: 'rounds'", "(stage train)", "Correct it"),
        edited("params.yaml", "rounds: 50", "round: 50"),
        trained=True,
    ),
    Mistake(
        "a parameter that LightGBM refuses",
        ("stage", "train"),
        ("model.py line", "LightGBMError", "(stage train)", "Correct it"),
        edited("params.yaml", "num_leaves: 15", "num_leaves: -15"),
        trained=True,
    ),
    Mistake(
        "a parameter is changed and the pipeline is not run",
        ("run", "--check"),
        ("dvc.lock: these stages would run again: train", "train in params.yaml", "Run `pilot run`"),
        edited("params.yaml", "rounds: 50", "rounds: 60"),
        code=1,
        trained=True,
    ),
    Mistake(
        "dvc.lock is deleted, and evidence/ is not",
        ("run", "--check"),
        ("dvc.lock: it is missing", "evidence/metrics.json claims that there was a run", "Run `pilot run`"),
        removed("dvc.lock"),
        code=1,
        trained=True,
    ),
    Mistake(
        "dvc.lock holds a conflict",
        ("run", "--check"),
        ("dvc.lock: it is not a lock file of DVC's", "Bring it back"),
        appended("dvc.lock", "<<<<<<< ours\n"),
        trained=True,
    ),
    Mistake(
        "simulation.yaml is missing",
        ("simulate",),
        ("simulation.yaml: the description of the simulated sources cannot be read", "git checkout"),
        removed("simulation.yaml"),
    ),
    Mistake(
        "simulation.yaml is no YAML",
        ("simulate",),
        ("simulation.yaml:", "it is not YAML", "Correct the line"),
        edited("simulation.yaml", "tables:", "tables: ["),
        rare=True,
    ),
    Mistake(
        "simulation.yaml has an unknown key",
        ("simulate",),
        ("simulation.yaml: tables.invoices.sytem: the key is unknown", "correct its spelling"),
        edited("simulation.yaml", "  invoices:\n    system: erp", "  invoices:\n    sytem: erp"),
    ),
    Mistake(
        "an expression of simulation.yaml is no SQL",
        ("simulate",),
        ("simulation.yaml: tables.customers.columns.size", "DuckDB refuses", "Correct the SQL"),
        edited("simulation.yaml", "size: exp(0.8 * normal('size'))", "size: exp(0.8 * nrmal('size'))"),
    ),
    Mistake(
        "simulation.yaml fills a system that pilot.toml lacks",
        ("simulate",),
        ("simulation.yaml: tables: the system 'crm'", "Declare [sources.crm] in pilot.toml"),
        edited("pilot.toml", "[sources.crm]", "[sources.sales]"),
    ),
    Mistake(
        "a simulation over real sources",
        ("simulate",),
        ("pilot.toml: [sources.erp] is not a simulated system", 'Set url = "embedded"'),
        edited("pilot.toml", 'url = "embedded"', 'url = "postgresql://db.invalid/erp"'),
    ),
    Mistake(
        "a demo over real sources",
        ("demo",),
        ("pilot.toml [sources]: the demo simulates sources", "Use `pilot run`"),
        edited("pilot.toml", 'url = "embedded"', 'url = "postgresql://db.invalid/erp"'),
    ),
)
