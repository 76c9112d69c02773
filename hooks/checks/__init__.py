"""Every check, in the order of its id. An id is never changed, and never given to another check.

PT1xx: what is the standard's. PT2xx: governance. PT3xx: what lies in git. PT4xx: the pipeline.
"""

from pilot_template.hooks.check import Check, Severity
from pilot_template.hooks.checks.answers import answers_file
from pilot_template.hooks.checks.governance import governance_documents
from pilot_template.hooks.checks.pipeline import pipeline_lock
from pilot_template.hooks.checks.repository import conflict_leftovers, data_files, large_files
from pilot_template.hooks.checks.standard import standard_files

CHECKS = (
    Check(
        "PT101",
        "standard-files",
        Severity.ERROR,
        "harness/ and the other files that harness/MANIFEST.sha256 lists",
        standard_files,
    ),
    Check(
        "PT102", "answers-file", Severity.ERROR, ".copier-answers.yml, .pre-commit-config.yaml", answers_file
    ),
    Check(
        "PT201",
        "governance-documents",
        Severity.ERROR,
        "governance/*.yaml, docs/model-card.md, docs/runbook.md",
        governance_documents,
    ),
    Check(
        "PT301",
        "conflict-leftovers",
        Severity.ERROR,
        "every file that git does not ignore",
        conflict_leftovers,
    ),
    Check("PT302", "large-files", Severity.ERROR, "every file in git", large_files),
    Check("PT303", "data-files", Severity.ERROR, "every file in git", data_files),
    Check(
        "PT401",
        "pipeline-lock",
        Severity.ERROR,
        "dvc.yaml, dvc.lock, and what they name that is in git",
        pipeline_lock,
    ),
)
