//go:build !linux

package maildir

import (
	"errors"
	"io/fs"
	"os"
)

func ordered(*os.File) bool { return false }

func createNameless(*os.File) (*os.File, error) { return nil, errors.ErrUnsupported }

func settle(*os.File) error { return errors.ErrUnsupported }

func link(*os.File, *os.File, string) error { return errors.ErrUnsupported }

func move(*os.File, string, *os.File, string) error { return errors.ErrUnsupported }

func remove(*os.File, string) error { return errors.ErrUnsupported }

func lock(*os.File) error { return errors.ErrUnsupported }

func private(fs.FileInfo) bool { return false }

func instance(*os.Root) (string, error) { return "", errNoStage }
