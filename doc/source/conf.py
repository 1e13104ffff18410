# SPDX-License-Identifier: Apache-2.0
"""Configuration of Sphinx."""
extensions = ['openstackdocstheme', 'reno.sphinxext']
project = 'Ironic Snapshot'
copyright = 'Ironic Snapshot contributors'
html_theme = 'openstackdocs'
openstackdocs_auto_name = False
openstackdocs_use_storyboard = False
exclude_patterns = ['_generated']
nitpicky = True
