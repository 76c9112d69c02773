"""What a real run leaves behind is enough to follow its model back, by the hashes that DVC locked."""

from __future__ import annotations

import json

import yaml

from mistakes.planted import Pilot


def test_a_real_run_can_be_followed_to_its_tables(modelled: Pilot) -> None:
    done = modelled.run("lineage", "--json")
    assert (done.code, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    locked = yaml.safe_load((modelled.root / "dvc.lock").read_text())["stages"]
    (features,) = [out for out in locked["features"]["outs"] if out["path"] == "data/features"]
    assert found["trained_on"] == {"data/features": features["md5"]}
    assert {each["name"] for each in found["stages"]} == {*locked}
    tables = [(each["system"], each["table"]) for each in found["sources"]]
    assert tables == [("crm", "accounts"), ("erp", "invoices"), ("erp", "payments")]
    assert all(each["rows"] and each["columns"] for each in found["sources"])
    # Its committed run is found as well, when another one has taken its place.
    modelled.git("add", "dvc.lock", "evidence")
    modelled.git("commit", "-q", "-m", "a run")
    for file in ("dvc.lock", "evidence/run.json"):
        (modelled.root / file).unlink()
    digest = found["model"]["digest"]
    again = json.loads(modelled.run("lineage", "--model", digest[:12], "--json").stdout)
    assert again["run"]["place"] == "commit"
    assert again["stages"] == found["stages"]
