"""Makes the site in $OUT from index.html: pictures in the size and form that its constants say, constants as CSS.

A constant is a line `<meta name="NAME" content="VALUE">`. Each is a CSS variable of the page, too: `var(--NAME)`.
"""

import base64
import io
import os
import re
from pathlib import Path

import pictures

CONSTANT = re.compile(r'^\s*<meta name="(\w+)" content="([^"]*)">\n', re.MULTILINE)
PICTURE = re.compile(r'<img data-picture="(\w+)"')
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def main() -> None:
    page = Path("index.html").read_text()
    out = Path(os.environ["OUT"])
    constants = dict(CONSTANT.findall(page))
    seen: list[str] = []

    def place(match: re.Match[str]) -> str:
        name = match[1]
        seen.append(name)
        image = pictures.draw(name, int(constants["image_width"]))
        return f"{match[0]} {attributes(name, image, constants, out, is_first=seen == [name])}"

    page = PICTURE.sub(place, page)
    variables = "".join(f"--{name}:{value};" for name, value in constants.items())
    page = page.replace("<style>", f"<style>:root{{{variables}}}", 1)
    (out / "index.html").write_text(page)


def attributes(name: str, image: "pictures.Image.Image", constants: dict[str, str], out: Path, is_first: bool) -> str:
    """Source, size and loading of a picture; its file goes into `out` unless it is inline."""
    form = constants["image_format"]
    buffer = io.BytesIO()
    image.save(buffer, form, **({} if form == "png" else {"quality": int(constants["image_quality"])}))
    if constants["images_inline"] == "1":
        source = f"data:{MEDIA_TYPES[form]};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    else:
        source = f"{name}.{form}"
        (out / source).write_bytes(buffer.getvalue())
    words = [f'src="{source}"']
    if constants["images_sized"] == "1":
        words.append(f'width="{image.width}" height="{image.height}"')
    if constants["images_lazy"] == "1" and not is_first:
        words.append('loading="lazy"')
    return " ".join(words)


if __name__ == "__main__":
    main()
