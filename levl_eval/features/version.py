"""The version of stored features. Raised when equal inputs give others on purpose; part of every identity and every store key."""

# How images become stored features. 2: images that are not square are resized and cropped as torchvision does. 3: images become
# RGB by data/rgb.py: turned as their EXIF tag says, transparency on white, 16 bits by their range. 4: pooled features and the mean
# over patch tokens in float32 (half precision before); tokens are the same. 5: odd images are read as their formats say (a TIFF
# turned by a quarter or of 12 bits a channel, a PNG with one transparent value, grey with premultiplied alpha). Raised with
# data.rgb.READING.
FEATURES = 5
