"""The 40 face attributes of CelebA in the order of its official files, and what the weights tell beyond them."""

ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes",
    "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling",
    "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
)  # fmt: skip

BEYOND = ("Child", "Senior", "Wearing_Mask")
"""Attributes that are not CelebA's: younger than 13, 65 or older, a face mask."""
AGE = "age"
"""What the age in years goes by among the attributes to report or to leave out."""

GROUPS = {
    "hair": (
        "Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Receding_Hairline",
        "Straight_Hair", "Wavy_Hair",
    ),
    "eyes": ("Arched_Eyebrows", "Bags_Under_Eyes", "Bushy_Eyebrows", "Eyeglasses", "Narrow_Eyes"),
    "nose": ("Big_Nose", "Pointy_Nose"),
    "mouth": ("Big_Lips", "Mouth_Slightly_Open", "Smiling", "Wearing_Lipstick"),
    "beard": ("5_o_Clock_Shadow", "Goatee", "Mustache", "No_Beard", "Sideburns"),
    "face": ("Chubby", "Double_Chin", "Heavy_Makeup", "High_Cheekbones", "Oval_Face", "Pale_Skin", "Rosy_Cheeks"),
    "accessories": ("Wearing_Earrings", "Wearing_Hat", "Wearing_Necklace", "Wearing_Necktie"),
    "whole": ("Attractive", "Blurry", "Male", "Young"),
}  # fmt: skip
"""The attributes by the part of the face they speak of; each is in one group."""

IDENTITY_RELATED = (
    "Bald", "Big_Lips", "Big_Nose", "Bushy_Eyebrows", "Chubby", "Double_Chin", "High_Cheekbones", "Male", "Narrow_Eyes",
    "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Young",
)  # fmt: skip
"""Attributes that a person keeps from photo to photo: sex, age, the shape of the face and its parts (section 5.1)."""

TABLE_1 = {
    "CelebA": {
        "FaceTracer": (
            85, 76, 78, 76, 89, 88, 64, 74, 70, 80, 81, 60, 80, 86, 88, 98, 93, 90, 85, 84, 91, 87, 91, 82, 90,
            64, 83, 68, 76, 84, 94, 89, 63, 73, 73, 89, 89, 68, 86, 80,
        ),
        "PANDA-w": (
            82, 73, 77, 71, 92, 89, 61, 70, 74, 81, 77, 69, 76, 82, 85, 94, 86, 88, 84, 80, 93, 82, 83, 79, 87,
            62, 84, 65, 82, 81, 90, 89, 67, 76, 72, 91, 88, 67, 88, 77,
        ),
        "PANDA-l": (
            88, 78, 81, 79, 96, 92, 67, 75, 85, 93, 86, 77, 86, 86, 88, 98, 93, 94, 90, 86, 97, 93, 93, 84, 93,
            65, 91, 71, 85, 87, 93, 92, 69, 77, 78, 96, 93, 67, 91, 84,
        ),
        "LNets+ANet": (
            91, 79, 81, 79, 98, 95, 68, 78, 88, 95, 84, 80, 90, 91, 92, 99, 95, 97, 90, 87, 98, 92, 95, 81, 95,
            66, 91, 72, 89, 90, 96, 92, 73, 80, 88, 99, 93, 71, 93, 87,
        ),
    },
    "LFWA": {
        "FaceTracer": (
            70, 67, 71, 65, 77, 72, 68, 73, 76, 88, 73, 62, 67, 67, 70, 90, 69, 78, 88, 77, 84, 77, 83, 73, 69,
            66, 70, 74, 63, 70, 71, 78, 67, 62, 88, 75, 87, 81, 71, 80,
        ),
        "PANDA-w": (
            64, 63, 70, 63, 82, 79, 64, 71, 78, 87, 70, 65, 63, 65, 64, 84, 65, 77, 86, 75, 86, 74, 77, 68, 63,
            64, 64, 68, 61, 64, 68, 77, 68, 63, 85, 78, 83, 79, 70, 76,
        ),
        "PANDA-l": (
            84, 79, 81, 80, 84, 84, 73, 79, 87, 94, 74, 74, 79, 69, 75, 89, 75, 81, 93, 86, 92, 78, 87, 73, 75,
            72, 84, 76, 84, 73, 76, 89, 73, 75, 92, 82, 93, 86, 79, 82,
        ),
        "LNets+ANet": (
            84, 82, 83, 83, 88, 88, 75, 81, 90, 97, 74, 77, 82, 73, 78, 95, 78, 84, 95, 88, 94, 82, 92, 81, 79,
            74, 84, 80, 85, 78, 77, 91, 76, 76, 94, 88, 95, 88, 79, 86,
        ),
    },
}  # fmt: skip
"""Table 1 of the paper: accuracy in percent of each method for the 40 attributes, by data set."""
