import io

import pytest
from PIL import Image

from mobile_sam.core.errors import ImageReadError
from mobile_sam.serve.picture_formats import require_known_format


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "MPO"])
def test_what_pillow_writes_of_these_formats_is_known(file_format):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, file_format)
    require_known_format(buffer.getvalue())


@pytest.mark.parametrize("file_format", ["EPS", "PDF", "PPM", "TGA", "ICO", "PCX"])
def test_other_formats_are_refused(file_format):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, file_format)
    with pytest.raises(ImageReadError, match="are no JPEG"):
        require_known_format(buffer.getvalue())


def test_an_empty_file_is_refused():
    with pytest.raises(ImageReadError, match="the 0 bytes"):
        require_known_format(b"")
