"""Titled, captioned charts of a result, one file per part of the page."""
