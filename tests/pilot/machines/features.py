"""What the model sees of a reading."""

import narwhals as nw


def features() -> dict[str, nw.Expr]:
    """The three measurements, and whether it runs hot."""
    return {
        "heat": nw.col("heat"),
        "vibration": nw.col("vibration"),
        "hardness": nw.col("hardness"),
        "hot": nw.when(nw.col("heat") > 85).then(1.0).otherwise(0.0),
    }
