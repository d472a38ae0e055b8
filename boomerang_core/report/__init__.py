"""A page about a measured family: its sizes, pictures, and where the figures come from.

`findings`  what is known about the family: its folder, and the files of `files`
`pictures`  which pictures that gives, and each in words; `charts` draws them
`page`      the page
"""
