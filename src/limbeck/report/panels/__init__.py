"""From a result to titled, captioned charts: one file for each part of the page."""
