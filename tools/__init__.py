"""Tools for developers: speed, screenshots, generated docs, the record of forecasts."""
