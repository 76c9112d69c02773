"""Bulk data: from the source systems to records that keep the contract, on the engine of pilot.toml."""
