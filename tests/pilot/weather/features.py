"""What the model sees of a day."""

import narwhals as nw


def features() -> dict[str, nw.Expr]:
    """Measurements, and the two differences that forecasters look at."""
    temperature, dew_point = nw.col("temperature"), nw.col("dew_point")
    return {
        "month": nw.col("month"),
        "temperature": temperature,
        "pressure": nw.col("pressure"),
        "visibility": nw.col("visibility"),
        "wind": nw.col("wind"),
        "gust": nw.col("gust"),
        "spread": temperature - dew_point,
        "range": nw.col("warmest") - nw.col("coldest"),
    }
