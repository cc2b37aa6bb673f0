//! Data: what is read, and what is said of files that cannot be.

use std::fs;
use std::path::Path;

use psld::{Result, Status};
use psld_training::data::{Dataset, Split, Values, fetch, pack, unpack};
use psld_training::recipe::{DataKind, DataRecipe};

fn load(kind: DataKind, path: &Path, change: impl FnOnce(&mut DataRecipe)) -> Result<Dataset> {
    let mut recipe = DataRecipe::new(kind, path);
    change(&mut recipe);
    Dataset::load(&recipe, Split::Train, 0)
}

fn pixels(data: &Dataset) -> &[u8] {
    let Values::U8(pixels) = &data.values else { panic!("no pixels") };
    pixels
}

/// An image whose left half is red and whose right half is blue, twice as wide as high.
fn image(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let color = |x, _| if x < 8 { image::Rgb([255, 0, 0]) } else { image::Rgb([0, 0, 255u8]) };
    image::RgbImage::from_fn(16, 8, color).save(path).unwrap();
}

#[test]
fn a_folder_is_cropped_scaled_and_labelled_by_its_subfolders() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b/2.png", "a/1.webp", "b/1.png"] {
        image(&folder.path().join(name));
    }
    fs::write(folder.path().join("b/notes.txt"), "no image").unwrap();
    let data = load(DataKind::Folder, folder.path(), |r| r.size = Some(4)).unwrap();
    assert_eq!((data.len(), data.shape.as_slice(), data.classes), (3, &[3, 4, 4][..], 2));
    assert_eq!(data.labels.as_deref(), Some(&[0, 1, 1][..]));
    // The middle square, channels first: red on the left, blue on the right.
    let first = &pixels(&data)[48..96];
    assert_eq!([first[0], first[3], first[32], first[35]], [255, 0, 0, 255]);
    let grey = load(DataKind::Folder, folder.path(), |r| (r.size, r.channels) = (Some(8), Some(1))).unwrap();
    assert_eq!(grey.shape, [1, 8, 8]);
}

#[test]
fn an_unreadable_image_is_named_and_left_out_only_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    image(&folder.path().join("good.png"));
    let whole = fs::read(folder.path().join("good.png")).unwrap();
    fs::write(folder.path().join("torn.png"), &whole[..whole.len() / 2]).unwrap();
    let error = load(DataKind::Folder, folder.path(), |r| r.size = Some(8)).unwrap_err();
    assert_eq!(error.status(), Status::ReadFailed);
    assert!(error.to_string().contains("torn.png") && error.to_string().contains("--skip-bad"), "{error}");
    let data = load(DataKind::Folder, folder.path(), |r| (r.size, r.skip_bad) = (Some(8), true)).unwrap();
    assert_eq!((data.len(), data.skipped.len()), (1, 1));
    assert!(data.skipped[0].ends_with("torn.png"));
    let error = load(DataKind::Folder, folder.path(), |_| ()).unwrap_err();
    assert!(error.to_string().contains("data.size"), "{error}");
}

/// A version 1.0 `.npy` file.
fn npy(path: &Path, kind: &str, shape: &str, bytes: &[u8]) {
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend(bytes);
    fs::write(path, file).unwrap();
}

#[test]
fn arrays_of_any_rank_are_read_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    let bytes = |values: &[f64]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    npy(&path, "<f8", "(2, 3)", &bytes(&[0.0, 1.0, -2.0, 0.5, 3.0, 0.25]));
    let data = load(DataKind::Npy, &path, |_| ()).unwrap();
    assert_eq!((data.shape.as_slice(), data.range, data.len()), (&[3][..], [-2.0, 3.0], 2));
    assert_eq!(load(DataKind::Npy, &path, |r| r.limit = Some(1)).unwrap().len(), 1);

    let labels = folder.path().join("y.npy");
    npy(&labels, "|u1", "(3,)", &[0, 1, 0]);
    let error = load(DataKind::Npy, &path, |r| r.labels_path = Some(labels.clone())).unwrap_err();
    assert_eq!(error.status(), Status::ShapeMismatch);
    assert!(error.to_string().contains("3 labels for 2 samples"), "{error}");

    let message = |kind: &str, shape: &str, bytes: &[u8]| {
        npy(&path, kind, shape, bytes);
        load(DataKind::Npy, &path, |_| ()).unwrap_err().to_string()
    };
    assert!(message("<f8", "(2, 1)", &bytes(&[0.0, f64::NAN])).contains("sample 1"));
    assert!(message("<i2", "(2, 1)", &[255, 0, 0, 1]).contains("sample 1 holds 256"));
    assert!(message("|b1", "(1, 1)", &[1]).contains("truth values"));
    assert!(message("<f8", "(2,)", &bytes(&[0.0; 2])).contains("got shape [2]"));
    assert!(message("<f8", "(2, 2)", &[0; 7]).contains("truncated"));
    // Sizes that nothing could hold, and labels that would be a table of such a size.
    assert!(message("<f4", "(1000000000000, 1000)", &[0; 64]).contains("truncated"));
    assert!(message("<f4", "(4294967296, 4294967296, 4294967296)", &[0; 64]).contains("more than a file"));
    assert!(message("<f4", "(2, 0)", &[]).contains("got shape [2, 0]"));
    npy(&path, "<f8", "(2, 1)", &bytes(&[0.0, 1.0]));
    for (label, expected) in [(-1, "sample 1 is -1"), (1 << 40, "sample 1 is 1099511627776")] {
        let both: Vec<u8> = [0, label].iter().flat_map(|label: &i64| label.to_le_bytes()).collect();
        npy(&labels, "<i8", "(2,)", &both);
        let error = load(DataKind::Npy, &path, |r| r.labels_path = Some(labels.clone())).unwrap_err();
        assert_eq!(error.status(), Status::ShapeMismatch);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// An idx file of bytes.
fn idx(path: &Path, sizes: &[u32], bytes: &[u8]) {
    let mut file = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|size| file.extend(size.to_be_bytes()));
    file.extend(bytes);
    fs::write(path, file).unwrap();
}

#[test]
fn idx_files_are_padded_and_their_labels_counted() {
    let folder = tempfile::tempdir().unwrap();
    let error = load(DataKind::Mnist, &folder.path().join("none"), |_| ()).unwrap_err().to_string();
    assert!(error.contains("psld-training data fetch mnist"), "{error}");
    let (images, labels) = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte");
    idx(&folder.path().join(images), &[2, 2, 2], &[1, 2, 3, 4, 5, 6, 7, 8]);
    idx(&folder.path().join(labels), &[2], &[9, 0]);
    let data = load(DataKind::Mnist, folder.path(), |r| r.size = Some(4)).unwrap();
    assert_eq!(pixels(&data)[..16], [0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0]);
    assert_eq!(data.labels.as_deref(), Some(&[9, 0][..]));
    assert!(load(DataKind::Mnist, folder.path(), |r| r.size = Some(1)).is_err());

    let message = || load(DataKind::Mnist, folder.path(), |_| ()).unwrap_err().to_string();
    idx(&folder.path().join(labels), &[3], &[9, 0, 1]);
    assert!(message().contains("3 labels for 2 samples"));
    idx(&folder.path().join(labels), &[2], &[10, 0]);
    assert!(message().contains("sample 0 is 10"));
    idx(&folder.path().join(images), &[2, 2, 2], &[1; 7]);
    assert!(message().contains("7 bytes of data"));
}

#[test]
fn sheets_of_cifar_are_checked_against_their_labels() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let load = || load(DataKind::Cifar10, folder.path(), |_| ());
    for i in 1..=5u32 {
        let color = |x, y| image::Rgb([i as u8, y as u8, (x % 251) as u8]);
        image::RgbImage::from_fn(1024, 2, color).save(at(&format!("data_batch_{i}.png"))).unwrap();
    }
    let labels = |labels: &str| fs::write(at("train_lables.json"), labels).unwrap();
    labels("[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]");
    let data = load().unwrap();
    assert_eq!((data.len(), data.shape.as_slice(), data.classes), (10, &[3, 32, 32][..], 10));
    // The last image: sheet 5, line 1; channels first.
    let last = &pixels(&data)[9 * 3072..];
    assert_eq!([last[0], last[1024], last[2048], last[2048 + 250]], [5, 1, 0, 250]);

    let message = || load().unwrap_err().to_string();
    labels("[0, 1, 2, 3, 4, 5, 6, 7, 8]");
    assert!(message().contains("9 labels for 10 samples"));
    labels("[0, 1, 2, 3, 4, 5, 6, 7, 8, 10]");
    assert!(message().contains("sample 9 is 10: expected 0 to 9"));
    labels("[0, 1");
    assert!(message().contains("train_lables.json: not a list of labels"));
    image::RgbImage::new(1000, 2).save(at("data_batch_3.png")).unwrap();
    assert!(message().contains("data_batch_3.png: 1000 pixels wide"));
    fs::write(at("data_batch_3.png"), b"\x89PNG\r\n\x1a\n and no more").unwrap();
    assert!(message().contains("data_batch_3.png: not an image"));
}

/// Nothing is fetched where all files are there: they are verified.
#[test]
fn a_set_that_is_not_what_it_was_is_refused_by_its_sum() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["train", "t10k"] {
        for name in ["images-idx3-ubyte", "labels-idx1-ubyte"] {
            fs::write(folder.path().join(format!("{part}-{name}")), b"other bytes").unwrap();
        }
    }
    let error = fetch(DataKind::Mnist, folder.path()).unwrap_err();
    assert_eq!(error.status(), Status::ReadFailed);
    let said = error.to_string();
    assert!(said.contains("train-images-idx3-ubyte: SHA-256") && said.contains("fetch it again"), "{said}");
    let error = fetch(DataKind::Npy, folder.path()).unwrap_err().to_string();
    assert!(error.contains("`npy` is no data set that can be fetched"), "{error}");
}

#[test]
fn packed_pieces_are_the_folder_again() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("set");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("large"), vec![7; 61_000_000]).unwrap();
    fs::write(folder.join("small"), b"abc").unwrap();
    let pieces = pack(&folder, &work.path().join("pieces")).unwrap();
    assert_eq!(pieces.len(), 3);
    let list = work.path().join("pieces/set.json");
    let goal = work.path().join("goal");
    assert_eq!(unpack(&list, &goal).unwrap().len(), 2);
    for name in ["large", "small"] {
        assert!(fs::read(goal.join(name)).unwrap() == fs::read(folder.join(name)).unwrap());
    }
    let mut piece = fs::read(&pieces[1]).unwrap();
    *piece.last_mut().unwrap() ^= 1;
    fs::write(&pieces[1], piece).unwrap();
    assert!(unpack(&list, &goal).unwrap_err().to_string().contains("`small` is damaged"));
}

#[test]
fn only_public_sets_have_a_part_that_is_held_back() {
    let folder = tempfile::tempdir().unwrap();
    for kind in [DataKind::Folder, DataKind::Npy, DataKind::Mixture] {
        let error = Dataset::load(&DataRecipe::new(kind, folder.path()), Split::Test, 0).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument, "{error}");
        assert!(error.to_string().contains("held back"), "{error}");
    }
}
