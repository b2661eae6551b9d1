"""The whole job on photos that come with scikit-image: an astronaut, and three pictures without a face."""

import sys
from importlib import resources

from faceattr.cli import main

PICTURES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")  # chelsea is a cat

if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else "demo-output"
    data = resources.files("skimage.data")
    status = main(["predict", *(str(data / name) for name in PICTURES), "--output", folder, "--quiet"])
    if status == 0:
        print(f"\nThe photos with their faces (NAME.faces.jpg) and the nets' response maps are in {folder}/;")
        print("gallery.html shows them all")
    sys.exit(status)
