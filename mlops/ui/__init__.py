"""A page to look at: the endpoint with its slots, releases, trainings, models and a chat, served on loopback.

It reads and asks; nothing on it changes anything in Azure.
"""
