"""Mistakes in the five files."""

from __future__ import annotations

from mistakes.planted import Mistake, appended, edited, removed

SERVE = ("serve", "--port", "0")
FEATURES, TRAIN, EVALUATE = (("stage", name) for name in ("features", "train", "evaluate"))
PACKAGE_STAGE = ("stage", "package")
BROKEN = "def broken(:\n"
RAISES = "\nraise RuntimeError('not today')\n"

MISTAKES = (
    Mistake(
        "contract.py with a syntax error",
        SERVE,
        ("late_payment/contract.py: line", "is not valid Python", "Correct it"),
        appended("contract.py", BROKEN),
        rare=True,
    ),
    Mistake(
        "contract.py is missing",
        SERVE,
        ("late_payment/contract.py: the file is missing", "git checkout"),
        removed("contract.py"),
        rare=True,
    ),
    Mistake(
        "contract.py raises",
        SERVE,
        ("contract.py line", "RuntimeError: not today", "Correct it"),
        appended("contract.py", RAISES),
    ),
    Mistake(
        "contract.py without a contract",
        SERVE,
        ("late_payment/contract.py: contract is not defined", "Define it"),
        edited("contract.py", "contract = Contract(", "agreement = Contract("),
    ),
    Mistake(
        "contract.py names a key that is no field",
        SERVE,
        ("contract.py: 'invoice_no' is named as a key", "Add a Field named 'invoice_no'"),
        edited("contract.py", 'key="invoice_id"', 'key="invoice_no"'),
    ),
    Mistake(
        "fallback.py with a syntax error",
        SERVE,
        ("late_payment/fallback.py: line", "is not valid Python", "Correct it"),
        appended("fallback.py", BROKEN),
    ),
    Mistake(
        "fallback.py is missing",
        SERVE,
        ("late_payment/fallback.py: the file is missing", "git checkout"),
        removed("fallback.py"),
    ),
    Mistake(
        "fallback.py raises for a record",
        EVALUATE,
        ("fallback.py line", "KeyError: 'prior_invoice'", "(stage evaluate)", "Correct it"),
        edited("fallback.py", 'record["prior_invoices"]', 'record["prior_invoice"]'),
        trained=True,
    ),
    Mistake(
        "fallback.py decides what the contract does not know",
        EVALUATE,
        ("fallback.py: decide() gave 'hold' (stage evaluate)", "Decide 'call' or 'wait'"),
        edited("fallback.py", 'return Answer("wait"', 'return Answer("hold"'),
        trained=True,
    ),
    Mistake(
        "features.py with a syntax error",
        FEATURES,
        ("late_payment/features.py: line", "is not valid Python", "(stage features)", "Correct it"),
        appended("features.py", BROKEN),
        trained=True,
        rare=True,
    ),
    Mistake(
        "features.py is missing",
        FEATURES,
        ("late_payment/features.py: the file is missing", "git checkout"),
        removed("features.py"),
        trained=True,
        rare=True,
    ),
    Mistake(
        "features.py raises",
        FEATURES,
        ("features.py line", "RuntimeError: not today", "(stage features)", "Correct it"),
        edited("features.py", '    amount = nw.col("amount_eur")', "    raise RuntimeError('not today')"),
        trained=True,
    ),
    Mistake(
        "a feature of a column that the record does not have",
        FEATURES,
        (
            "features.py: the feature 'amount_eur' cannot be computed",
            "'ammount_eur'",
            "(stage features)",
            "let sources.py",
        ),
        edited("features.py", 'nw.col("amount_eur")', 'nw.col("ammount_eur")'),
        trained=True,
    ),
    Mistake(
        "features.py imports what is not installed",
        FEATURES,
        ("late_payment/features.py: it imports 'tensorfast', which is not installed", "make setup"),
        edited("features.py", "import narwhals as nw", "import narwhals as nw\nimport tensorfast"),
        trained=True,
    ),
    Mistake(
        "features.py imports a file that there is not",
        FEATURES,
        ("late_payment/features.py: it imports 'late_payment.agreement'", "correct the import"),
        edited("features.py", "from .contract import", "from .agreement import"),
        trained=True,
    ),
    Mistake(
        "model.py with a syntax error",
        TRAIN,
        ("late_payment/model.py: line", "is not valid Python", "(stage train)", "Correct it"),
        appended("model.py", BROKEN),
        trained=True,
    ),
    Mistake(
        "model.py is missing",
        TRAIN,
        ("late_payment/model.py: the file is missing", "git checkout"),
        removed("model.py"),
        trained=True,
        rare=True,
    ),
    Mistake(
        "model.py raises while it trains",
        TRAIN,
        ("model.py line", "RuntimeError: not today", "(stage train)", "Correct it"),
        edited("model.py", "    options = {**FIXED, **params}", "    raise RuntimeError('not today')"),
        trained=True,
    ),
    Mistake(
        "model.py saves nothing",
        TRAIN,
        ("model.py: save() wrote nothing (stage train)", "Write the model into the folder"),
        edited("model.py", "    model.save_model(folder / FILE)", "    pass"),
        trained=True,
    ),
    Mistake(
        "model.py gives a score that is none",
        EVALUATE,
        ("model.py: predict() gave", "no score for the contract's decision", "Return probabilities"),
        edited("model.py", "num_threads=1))\n\n\ndef reasons", "num_threads=1)) * 9\n\n\ndef reasons"),
        trained=True,
    ),
    Mistake(
        "routes.py with a syntax error",
        SERVE,
        ("late_payment/routes.py: line", "is not valid Python", "Correct it"),
        appended("routes.py", BROKEN),
        rare=True,
    ),
    Mistake(
        "routes.py imports what is not installed",
        SERVE,
        ("late_payment/routes.py: it imports 'collectors', which is not installed", "pyproject.toml"),
        appended("routes.py", "\nimport collectors\n"),
        rare=True,
    ),
    Mistake(
        "a route that says no scope",
        SERVE,
        ("routes.py line", "TypeError", "'scope'", "Correct it"),
        edited("routes.py", "    return own", '    return [Route("GET", "/summary", dict)]'),
        rare=True,
    ),
    Mistake(
        "a route with a scope that no token can have",
        SERVE,
        ("routes.py, GET /summary: 'everybody' is no scope", "Use one of decide, outcomes"),
        edited(
            "routes.py", "    return own", '    return [Route("GET", "/summary", dict, scope="everybody")]'
        ),
    ),
    Mistake(
        "routes.py without its function",
        SERVE,
        ("late_payment/routes.py: routes is not defined", "Define it"),
        edited("routes.py", "def routes(", "def paths("),
    ),
    Mistake(
        "a model that imports from routes.py",
        PACKAGE_STAGE,
        ("model.py line 1: it imports from routes.py, which is not packaged", "a file of its own"),
        lambda pilot: pilot.file("model.py").write_text(
            "from .routes import routes  # noqa\n" + pilot.file("model.py").read_text(encoding="utf-8"),
            encoding="utf-8",
        ),
        trained=True,
    ),
)
