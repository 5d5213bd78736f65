"""Forecasting: series from CSV files, protocols and windows, forecasters, exact errors, rolling forecasts."""
