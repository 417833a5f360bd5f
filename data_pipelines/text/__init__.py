"""Texts: tokenizers, vocabularies, knowledge of classes, sentences of reports."""
