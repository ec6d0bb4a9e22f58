"""The Jinja templates of the pages, with escaping on."""

from __future__ import annotations

from functools import cache

import jinja2

from limbeck.display import format as fmt


@cache
def environment() -> jinja2.Environment:
    """Return the Jinja environment: escaping is on, and undefined names are errors."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("limbeck.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["fmt"] = fmt
    made.filters["tight"] = fmt.tight
    return made


def render(name: str, **context: object) -> str:
    """Render a template."""
    return environment().get_template(name).render(**context)
