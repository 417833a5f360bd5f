"""From pictures that a user names to what a model says of them, row by row; `predict` and `embed`.

`scoring` has how a model is asked, `rows` the reading of pictures and the batches on the device,
`answers` and `levels` the columns that come out, `requests` what is refused, `output` the files.
"""
