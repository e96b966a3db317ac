from .page import report as report
from .pictures import find_images as find_images
