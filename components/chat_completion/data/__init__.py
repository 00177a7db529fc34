"""Chats in, labelled tokens out."""
