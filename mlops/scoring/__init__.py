"""Asking an endpoint: requests, answers, streams."""
