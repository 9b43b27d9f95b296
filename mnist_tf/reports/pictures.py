"""Images as data URIs, which a page can hold."""

import base64
import io

import numpy as np
from PIL import Image

_LARGEST = 56  # pixels on the longer side


def data_uri(content: bytes) -> str:
    """Returns the content of a PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def thumbnail(image: np.ndarray) -> str:
    """Returns a picture, uint8 [H, W] or [H, W, 3], as the data URI of a small PNG."""
    picture = Image.fromarray(np.asarray(image))
    picture.thumbnail((_LARGEST, _LARGEST))  # never enlarges
    file = io.BytesIO()
    picture.save(file, "PNG")
    return data_uri(file.getvalue())
