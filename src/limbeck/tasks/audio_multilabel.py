"""Multi-label classification of sound clips: an element is a clip."""

from __future__ import annotations

from typing import ClassVar

from limbeck.tasks._base import AUDIO_INPUTS
from limbeck.tasks._multilabel import Multilabel


class AudioMultilabel(Multilabel):
    """Multi-label classification of sound clips: every label is present or absent by itself."""

    name: ClassVar[str] = "audio_multilabel"
    inputs = AUDIO_INPUTS
