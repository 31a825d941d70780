"""Charts as inline SVG: places in percent, text in pixels, colours by class.

Width, theme and print then need no second drawing.
"""
