"""From a scenario to its forecast: cost, calendar and scores over common draws; forecasts compared."""
