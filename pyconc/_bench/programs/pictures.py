"""Thumbnails in two processes, by Pillow: of files, whose names go to the workers, or of pictures in memory.

pictures.py files|memory PICTURES
"""

import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

import meter
from PIL import Image

WORKERS = 2
SIZE = (1280, 720)


def make_picture(number):
    """Not one colour: a gradient, which differs from picture to picture."""
    return Image.linear_gradient("L").resize(SIZE).rotate(number).convert("RGB")


def thumbnail(picture):
    picture.thumbnail((160, 90))
    return picture


def thumbnail_of_file(path):
    with Image.open(path) as picture:
        thumbnail(picture).save(f"{path}.small", "JPEG")


def process_id(_):
    time.sleep(0.01)
    return os.getpid()


def measure(work, items):
    with ProcessPoolExecutor(WORKERS) as executor:
        while len(set(executor.map(process_id, range(WORKERS)))) < WORKERS:
            pass  # not all workers have started
        list(executor.map(work, items[:WORKERS]))
        started = time.perf_counter()
        list(executor.map(work, items))
        return (time.perf_counter() - started) / len(items) * 1e3


def main(source, pictures):
    with tempfile.TemporaryDirectory() as folder:
        if source == "memory":
            meter.say(time=measure(thumbnail, [make_picture(number) for number in range(pictures)]))
            return
        paths = [os.path.join(folder, f"{number}.jpeg") for number in range(pictures)]
        for number, path in enumerate(paths):
            make_picture(number).save(path, "JPEG")
        meter.say(time=measure(thumbnail_of_file, paths))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
